"""The CSR, and what is refused on an issued certificate."""

import base64
import datetime as dt
import json
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from handler.crypto import certificates, csr
from handler.crypto.bag import certificates_in
from handler.crypto.csr import spki_der, spki_pem
from handler.errors import CertificateRefusedError, PendingError, RequestRefusedError
from handler.rotation.phases.enrolment import curve_of
from hsm.certificate import Certificate
from tests.authority import DAY, Authority, device_name, key_usage, read
from tests.odd_certificates import with_field

EST = json.loads((Path(__file__).parents[2] / "data" / "est.json").read_text())
WIRE = json.loads((Path(__file__).parents[2] / "data" / "wire.json").read_text())
MINUTE = dt.timedelta(minutes=1)
CA = Authority()
NOW = CA.now
KEY = ec.generate_private_key(ec.SECP256R1())
CURRENT = CA.issue(ec.generate_private_key(ec.SECP256R1()).public_key())


def check(issued, current=CURRENT, issuers=(CA.certificate,), now=NOW):
    issuers = [read(each) for each in issuers]
    return certificates.check_issued(read(issued), read(current), KEY.public_key(), issuers=issuers, now=now)


def build_csr(current, key):
    return csr.build_csr(read(current), key)


def pick(bag, now=NOW):
    return certificates.issued_for(KEY.public_key(), [read(each) for each in bag], now)[0]


def issue(**arguments):
    return CA.issue(KEY.public_key(), **arguments)


def with_times(validity):
    """Give an issued certificate with other times, and a signature that does not fit them."""
    good = read(issue())
    return Certificate.read(with_field(good.der, "validity", validity))


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
    request = x509.load_der_x509_csr(build_csr(issue(subject=name), KEY))
    assert request.subject.public_bytes() == name.public_bytes()


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
    request = x509.load_der_x509_csr(build_csr(issue(extensions=[(san, critical)]), KEY))
    extension = request.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert extension.value.public_bytes() == san.public_bytes()
    assert extension.critical is critical


def test_csr_of_a_p384_key_is_signed_with_sha256_as_the_est_server_asks():
    key = ec.generate_private_key(ec.SECP384R1())
    request = x509.load_der_x509_csr(build_csr(CURRENT, key))
    assert isinstance(request.signature_hash_algorithm, hashes.SHA256)
    assert request.is_signature_valid


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
    strange = Certificate.read(der.replace(bytes.fromhex(known), bytes.fromhex(unheard_of)))
    assert not strange.holds(KEY.public_key())
    with pytest.raises(RequestRefusedError, match=named):
        curve_of(strange)


def test_alternative_name_that_cannot_be_read_is_repeated_byte_for_byte():
    broken = x509.UnrecognizedExtension(x509.SubjectAlternativeName.oid, b"\x30\x03\x82\x05x")
    request = build_csr(issue(extensions=[(broken, False)]), KEY)
    assert b"\x06\x03\x55\x1d\x11\x04\x05" + broken.value in request


def test_subject_that_cannot_be_read_is_repeated_byte_for_byte():
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "device-1", _type=_ASN1Type.T61String)])
    der = issue(subject=name).public_bytes(Encoding.DER).replace(b"device-1", b"\xe4evice-1")
    current = Certificate.read(der)
    assert name.public_bytes().replace(b"device-1", b"\xe4evice-1") in csr.build_csr(current, KEY)


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
        assert pick(bag) == read(issued)


@pytest.mark.parametrize(
    ("start", "end"),
    [(30 * DAY, 400 * DAY), (-40 * DAY, -DAY), (-DAY, 30 * MINUTE), (-10 * DAY, 20 * DAY), (3 * MINUTE, 400 * DAY)],
    ids=["next month's", "an ended one", "one that ends soon", "an older one", "one of a clock ahead"],
)
def test_of_several_for_the_same_key_the_one_that_is_valid_now_is_picked(start, end):
    good, other = issue(start=NOW - 2 * DAY, end=NOW + 90 * DAY), issue(start=NOW + start, end=NOW + end)
    assert pick([good, other]) == pick([other, good]) == read(good)
    assert check(good) == [
        f"the issued certificate ends on {NOW + 90 * DAY:%Y-%m-%d} already, before the current one does"
    ]


def test_of_several_the_one_with_times_that_can_be_held_is_picked():
    good, other = issue(), with_times(b"0\x22\x18\x0f00000101000000Z\x18\x0f20991231235959Z")
    assert certificates.issued_for(KEY.public_key(), [other, read(good)], NOW) == [read(good), other]


@pytest.mark.parametrize("bag", [[], [CA.certificate, CURRENT]])
def test_answer_without_a_certificate_for_the_key_is_refused(bag):
    with pytest.raises(CertificateRefusedError, match=f"none of the {len(bag)}"):
        pick(bag)


def test_certificate_of_another_kind_of_key_is_passed_over():
    other = CA.issue(rsa.generate_private_key(65537, 2048).public_key())
    assert not read(other).holds(KEY.public_key())
    assert pick([other, issue()])


# What is refused


def test_answer_of_the_reference_server_passes():
    current, authority, root = (
        Certificate.of_pem(EST[name].encode())
        for name in ("current_certificate_pem", "device_ca_pem", "factory_root_pem")
    )
    key = load_pem_private_key(EST["new_key_pem"].encode(), None).public_key()
    answer, notes = certificates_in(base64.b64decode(EST["simplereenroll"]["body"]))
    (issued,) = certificates.issued_for(key, answer, NOW)
    now = issued.begin + MINUTE
    assert certificates.check_issued(issued, current, key, issuers=[root, authority], now=now) == notes == []
    (warning,) = certificates.check_issued(issued, current, key, issuers=[root], now=now)
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
        x509.Name([*device_name(), *device_name()]),
    ],
    ids=["other device", "other factory", "other order", "twice"],
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
    with pytest.raises(CertificateRefusedError, match=r"begins on .* check the clocks"):
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


def test_an_answer_of_many_certificates_costs_few_checks_of_signatures():
    impostors = [Authority().certificate for _ in range(certificates.MAX_ISSUERS)]
    with pytest.raises(CertificateRefusedError, match="forged"):
        check(issue(), issuers=[*impostors, CA.certificate])
    assert check(issue(), issuers=[*impostors[1:], CA.certificate]) == []
    found = certificates.issued_for(KEY.public_key(), [read(issue()) for _ in range(20)], NOW)
    assert len(found) == certificates.MAX_OF_ONE_KEY


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


def test_alternative_name_that_nobody_needs_is_warned_of_where_it_cannot_be_read():
    broken = x509.UnrecognizedExtension(x509.SubjectAlternativeName.oid, b"\x30\x7fgarbage")
    (warning,) = check(issue(extensions=[(broken, False)]))
    assert "subjectAltName of the issued certificate cannot be read" in warning
    with pytest.raises(CertificateRefusedError, match="another subjectAltName"):
        check(issue(extensions=[(broken, False)]), CA.issue(CURRENT.public_key(), san=[x509.DNSName("a")]))


def test_extension_that_is_there_twice_is_refused():
    placeholder = x509.UnrecognizedExtension(ObjectIdentifier("2.5.29.99"), b"\x05\x00")
    der = issue(extensions=[(placeholder, False)]).public_bytes(Encoding.DER)
    twice = x509.load_der_x509_certificate(der.replace(b"\x55\x1d\x63", b"\x55\x1d\x0f"))
    with pytest.raises(CertificateRefusedError, match=r"keyUsage of the issued certificate is malformed .*twice"):
        check(twice)
