"""The CSR, and what is refused on an issued certificate."""

import base64
import datetime as dt
import json
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key, pkcs7
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from handler.crypto.certificates import build_csr, check_issued, holds_key, pick_issued, spki_der, spki_pem
from handler.errors import CertificateRefusedError, PendingError, RequestRefusedError
from handler.rotation.phases.enrolment import curve_of
from tests.authority import DAY, Authority, device_name, key_usage

EST = json.loads((Path(__file__).parents[2] / "data" / "est.json").read_text())
WIRE = json.loads((Path(__file__).parents[2] / "data" / "wire.json").read_text())
MINUTE = dt.timedelta(minutes=1)
CA = Authority()
NOW = CA.now
KEY = ec.generate_private_key(ec.SECP256R1())
CURRENT = CA.issue(ec.generate_private_key(ec.SECP256R1()).public_key())


def check(issued, current=CURRENT, issuers=(CA.certificate,), now=NOW):
    return check_issued(issued, current, KEY.public_key(), issuers=issuers, now=now)


def issue(**arguments):
    return CA.issue(KEY.public_key(), **arguments)


# The CSR


def test_csr_equals_the_one_of_the_reference_but_for_its_signature():
    current = x509.load_pem_x509_certificate(EST["current_certificate_pem"].encode())
    key = load_pem_private_key(EST["new_key_pem"].encode(), None)
    reference = x509.load_der_x509_csr(base64.b64decode(EST["csr_base64"]))
    ours = x509.load_der_x509_csr(build_csr(current, key))
    assert ours.tbs_certrequest_bytes == reference.tbs_certrequest_bytes
    assert ours.signature_algorithm_oid == reference.signature_algorithm_oid
    assert ours.is_signature_valid


def test_csr_fits_the_limit_of_the_reference_server():
    assert len(base64.b64encode(build_csr(CURRENT, KEY))) < 4096


@pytest.mark.parametrize("kind", [_ASN1Type.UTF8String, _ASN1Type.PrintableString, _ASN1Type.T61String])
def test_subject_is_repeated_byte_for_byte(kind):
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.COUNTRY_NAME, "SE"),
            x509.NameAttribute(NameOID.COMMON_NAME, "device-1", _type=kind),
            x509.NameAttribute(NameOID.DOMAIN_COMPONENT, "example"),
        ]
    )
    csr = x509.load_der_x509_csr(build_csr(issue(subject=name), KEY))
    assert csr.subject.public_bytes() == name.public_bytes()


@pytest.mark.parametrize("critical", [False, True])
def test_alternative_names_are_repeated_with_their_criticality(critical):
    san = x509.SubjectAlternativeName(
        [
            x509.DNSName("device-1.example"),
            x509.UniformResourceIdentifier("urn:uuid:2e18a81e-2ec7-4471-a2f0-b3e0135b34c4"),
            x509.DirectoryName(device_name()),
            x509.OtherName(ObjectIdentifier("1.2.3"), b"\x0c\x01x"),
        ]
    )
    csr = x509.load_der_x509_csr(build_csr(issue(extensions=[(san, critical)]), KEY))
    extension = csr.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert extension.value.public_bytes() == san.public_bytes()
    assert extension.critical is critical


def test_csr_of_a_p384_key_is_signed_with_sha256_as_the_est_server_asks():
    key = ec.generate_private_key(ec.SECP384R1())
    csr = x509.load_der_x509_csr(build_csr(CURRENT, key))
    assert isinstance(csr.signature_hash_algorithm, hashes.SHA256)
    assert csr.is_signature_valid


def test_key_on_another_curve_gets_no_csr():
    with pytest.raises(RequestRefusedError, match="expected P-256 or P-384"):
        build_csr(CURRENT, ec.generate_private_key(ec.SECP521R1()))


@pytest.mark.parametrize(
    ("known", "unheard_of", "named"),
    [
        ("06072a8648ce3d0201", "06072a8648ce3d0209", "1.2.840.10045.2.9"),
        ("06082a8648ce3d030107", "06082a8648ce3d030177", "1.2.840.10045.3.1.119"),
    ],
    ids=["kind", "curve"],
)
def test_a_certificate_of_a_key_that_nobody_knows_is_refused_by_name(known, unheard_of, named):
    der = CURRENT.public_bytes(Encoding.DER)
    strange = x509.load_der_x509_certificate(der.replace(bytes.fromhex(known), bytes.fromhex(unheard_of)))
    assert not holds_key(strange, KEY.public_key())
    with pytest.raises(RequestRefusedError, match=named):
        curve_of(strange)


def test_alternative_name_that_cannot_be_read_is_refused():
    broken = x509.UnrecognizedExtension(x509.SubjectAlternativeName.oid, b"\x30\x03\x82\x05x")
    with pytest.raises(RequestRefusedError, match="register the device anew"):
        build_csr(issue(extensions=[(broken, False)]), KEY)


def test_subject_that_cannot_be_read_is_refused():
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "device-1", _type=_ASN1Type.T61String)])
    der = issue(subject=name).public_bytes(Encoding.DER).replace(b"device-1", b"\xe4evice-1")
    with pytest.raises(RequestRefusedError, match="register the device anew"):
        build_csr(x509.load_der_x509_certificate(der), KEY)


# Public keys


def test_public_key_is_given_as_the_gateway_takes_it():
    body = next(json.loads(each["body"]) for each in WIRE["requests"] if each["path"] == "/device")
    key = load_pem_private_key(WIRE["cert-rotation.state.completed"]["NewKey"].encode(), None)
    assert spki_pem(key.public_key()) == body["next_pubkey"]
    assert base64.b64encode(spki_der(key.public_key())).decode() in body["next_pubkey"].replace("\n", "")


# Which one was issued


def test_issued_certificate_is_picked_by_its_key_in_any_order():
    issued = issue()
    bag = [CA.certificate, issued, CURRENT]
    for _ in bag:
        bag.append(bag.pop(0))
        assert pick_issued(bag, KEY.public_key()) == issued


def test_latest_of_several_for_the_same_key_is_picked():
    older, newer = issue(start=NOW - 10 * DAY), issue(start=NOW - DAY)
    assert pick_issued([newer, older], KEY.public_key()) == newer
    assert pick_issued([older, newer], KEY.public_key()) == newer


@pytest.mark.parametrize("bag", [[], [CA.certificate, CURRENT]])
def test_answer_without_a_certificate_for_the_key_is_refused(bag):
    with pytest.raises(CertificateRefusedError, match=f"none of the {len(bag)}"):
        pick_issued(bag, KEY.public_key())


def test_certificate_of_another_kind_of_key_is_passed_over():
    other = CA.issue(rsa.generate_private_key(65537, 2048).public_key())
    assert not holds_key(other, KEY.public_key())
    assert pick_issued([other, issue()], KEY.public_key())


# What is refused


def test_answer_of_the_reference_server_passes():
    current = x509.load_pem_x509_certificate(EST["current_certificate_pem"].encode())
    key = load_pem_private_key(EST["new_key_pem"].encode(), None).public_key()
    answer = pkcs7.load_der_pkcs7_certificates(base64.b64decode(EST["simplereenroll"]["body"]))
    issued = pick_issued(answer, key)
    authority = x509.load_pem_x509_certificate(EST["device_ca_pem"].encode())
    root = x509.load_pem_x509_certificate(EST["factory_root_pem"].encode())
    now = issued.not_valid_before_utc + MINUTE
    assert check_issued(issued, current, key, issuers=[root, authority], now=now) == []
    (warning,) = check_issued(issued, current, key, issuers=[root], now=now)
    assert "no certificate of the issuer" in warning


def test_good_certificate_passes_without_a_warning():
    assert check(issue()) == []


def test_certificate_for_another_key_is_refused():
    with pytest.raises(CertificateRefusedError, match="another key"):
        check(CURRENT)


@pytest.mark.parametrize(
    "subject",
    [
        device_name(uuid="another-device"),
        device_name(factory="another"),
        x509.Name(list(device_name())[::-1]),
        x509.Name(
            [x509.NameAttribute(each.oid, each.value, _type=_ASN1Type.PrintableString) for each in device_name()]
        ),
    ],
    ids=["other device", "other factory", "other order", "other string type"],
)
def test_certificate_for_another_subject_is_refused(subject):
    with pytest.raises(CertificateRefusedError, match="Subject"):
        check(issue(subject=subject))


def test_certificate_that_lacks_an_alternative_name_is_refused():
    current = CA.issue(CURRENT.public_key(), san=[x509.DNSName("a"), x509.DNSName("b")])
    for san in (None, [x509.DNSName("a")], [x509.DNSName("a"), x509.RFC822Name("b")]):
        with pytest.raises(CertificateRefusedError, match=r"lacks .*b in its subjectAltName"):
            check(issue(san=san), current)
    assert check(issue(san=[x509.DNSName("b"), x509.DNSName("a")]), current) == []


def test_certificate_with_an_added_alternative_name_is_worked_with():
    (warning,) = check(issue(san=[x509.DNSName("added.example")]))
    assert "adds added.example" in warning


@pytest.mark.parametrize("usage", [None, key_usage(key_agreement=True)])
def test_certificate_without_digital_signature_is_refused(usage):
    with pytest.raises(CertificateRefusedError, match="digitalSignature"):
        check(issue(usage=usage))


@pytest.mark.parametrize(
    "extended", [None, [ExtendedKeyUsageOID.SERVER_AUTH], [ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE]]
)
def test_certificate_without_client_authentication_is_refused(extended):
    with pytest.raises(CertificateRefusedError, match="clientAuth"):
        check(issue(extended=extended))


def test_certificate_with_further_usages_is_worked_with():
    usage = key_usage(digital_signature=True, key_agreement=True, key_encipherment=True)
    extended = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    unknown = x509.UnrecognizedExtension(ObjectIdentifier("1.2.3.4"), b"\x05\x00")
    assert check(issue(usage=usage, extended=extended, ca=False, extensions=[(unknown, False)])) == []


def test_ca_certificate_is_refused():
    with pytest.raises(CertificateRefusedError, match="one of a CA"):
        check(issue(ca=True))


def test_expired_certificate_is_refused():
    with pytest.raises(CertificateRefusedError, match="ended on"):
        check(issue(start=NOW - 2 * DAY, end=NOW - MINUTE))


def test_certificate_that_begins_within_minutes_is_warned_of():
    (warning,) = check(issue(start=NOW + 4 * MINUTE))
    assert "240 s from now" in warning


def test_certificate_that_begins_later_is_refused():
    with pytest.raises(CertificateRefusedError, match=r"begins on .* look at the clocks"):
        check(issue(start=NOW + 6 * MINUTE))


def test_clock_at_1970_is_pending_and_not_refused():
    with pytest.raises(PendingError, match="clock of this device is wrong: it says 1970-01-01"):
        check(issue(), now=dt.datetime(1970, 1, 1, tzinfo=dt.UTC))


def test_certificate_that_ends_before_the_current_one_is_warned_of():
    (warning,) = check(issue(end=NOW + DAY))
    assert "before the current one does" in warning


def test_forged_issuer_is_refused():
    impostor = Authority()
    assert impostor.name == CA.name
    with pytest.raises(CertificateRefusedError, match="forged"):
        check(impostor.issue(KEY.public_key()))


def test_one_right_certificate_of_the_issuer_is_enough():
    renewed = Authority()  # the same CA with a new key: its roll-over
    issuers = [Authority("another").certificate, CURRENT, renewed.certificate, CA.certificate]
    assert check(issue(), issuers=issuers) == []
    assert check(renewed.issue(KEY.public_key()), issuers=issuers) == []


def test_issuer_with_another_kind_of_key_is_no_traceback():
    other = CA.issue(rsa.generate_private_key(65537, 2048).public_key(), CA.name, ca=True)
    with pytest.raises(CertificateRefusedError, match="forged"):
        check(issue(), issuers=[other])


def test_unknown_issuer_is_warned_of():
    (warning,) = check(issue(), issuers=[Authority("another").certificate])
    assert "CN=device-ca" in warning


@pytest.mark.parametrize(
    "oid",
    [
        x509.SubjectAlternativeName.oid,
        x509.KeyUsage.oid,
        x509.ExtendedKeyUsage.oid,
        x509.BasicConstraints.oid,
    ],
)
def test_malformed_extension_is_refused(oid):
    broken = x509.UnrecognizedExtension(oid, b"\x30\x7fgarbage")
    arguments = {"usage": None} if oid == x509.KeyUsage.oid else {}
    if oid == x509.ExtendedKeyUsage.oid:
        arguments = {"extended": None}
    with pytest.raises(CertificateRefusedError, match="malformed"):
        check(issue(extensions=[(broken, False)], **arguments))


def test_extension_that_is_there_twice_is_refused():
    placeholder = x509.UnrecognizedExtension(ObjectIdentifier("2.5.29.99"), b"\x05\x00")
    der = issue(extensions=[(placeholder, False)]).public_bytes(Encoding.DER)
    twice = x509.load_der_x509_certificate(der.replace(b"\x55\x1d\x63", b"\x55\x1d\x0f"))
    with pytest.raises(CertificateRefusedError, match="malformed"):
        check(twice)
