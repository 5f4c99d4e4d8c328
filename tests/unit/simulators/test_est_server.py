"""The simulated EST server, questioned by a plain client: as strict as the one that it stands for."""

import base64
import json
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import pkcs7

from tests.simulators.certs_only import certs_only
from tests.simulators.client import Client, ask_over
from tests.simulators.est_server import EstServer, EstState
from tests.simulators.issuing import MISISSUED
from tests.simulators.pki import CLIENT_AUTH, SERVER_AUTH, general_names

from .asking import client_with_subject

DATA = Path(__file__).resolve().parents[2] / "data"


@pytest.fixture(scope="module")
def reference():
    return json.loads((DATA / "est.json").read_text())


def test_refusals_of_the_est_server_are_the_references(est, client, reference):
    replies = {
        "simplereenroll_wrong_content_type": client.reenrol(est, headers={"Content-Type": "application/octet-stream"}),
        "simplereenroll_not_base64": client.reenrol(est, b"!!! not base64"),
        "simplereenroll_other_subject": client.reenrol(
            est, base64.b64encode(client.csr(subject=client.pki.name("other")))
        ),
        "csrattrs": client.ask(est, "GET", "/.well-known/est/csrattrs"),
    }
    for name, reply in replies.items():
        expected = reference[name]
        found = {"status": reply.status, "content_type": reply.headers["Content-Type"], "body": reply.text}
        assert found == expected, name


def test_answer_to_reenrolment_has_the_references_shape(est, client, reference):
    reply = client.reenrol(est)
    expected = reference["simplereenroll"]
    (issued,) = reply.certificates()
    (model,) = pkcs7.load_der_pkcs7_certificates(base64.b64decode(expected["body"]))

    assert (reply.status, reply.headers["Content-Type"]) == (expected["status"], expected["content_type"])
    assert issued.subject.public_bytes() == client.certificate.subject.public_bytes()
    assert [_extension_bytes(each) for each in issued.extensions] == [_extension_bytes(e) for e in model.extensions]
    assert est.state.issued == [issued]
    assert certs_only([model]) == base64.b64decode(expected["body"])


def _extension_bytes(extension):
    return extension.oid, extension.critical, extension.value.public_bytes()


def test_first_certificate_of_a_device_is_as_registration_issues_it(client, reference):
    model = x509.load_pem_x509_certificate(reference["current_certificate_pem"].encode())
    found = [_extension_bytes(each) for each in client.certificate.extensions]
    assert found == [_extension_bytes(each) for each in model.extensions]


def test_csr_of_the_reference_is_signed(est, pki, reference):
    csr = base64.b64decode(reference["csr_base64"])
    client = client_with_subject(pki, x509.load_der_x509_csr(csr).subject)
    assert client.reenrol(est, reference["csr_base64"].encode()).status == 201


def test_est_server_answers_401_to_a_chain(est, pki):
    client = Client(pki, chain=(pki.device_ca.certificate,))
    reply = client.reenrol(est)
    assert (reply.status, reply.text) == (401, "Client must provide certificate")
    assert est.state.requests[0].chain_length == 2


def test_client_that_trusts_the_device_cas_too_sends_a_chain_unawares(est, client, pki):
    client.trust = pki.ca_bundle_pem(with_device_cas=True)
    assert client.reenrol(est).status == 401


def test_est_server_answers_401_without_a_certificate_and_lists_cacerts_all_the_same(est, client, pki):
    client.anonymous = True
    assert client.reenrol(est).status == 401
    reply = client.ask(est, "GET", "/.well-known/est/cacerts")
    assert (reply.status, reply.certificates()) == (200, [pki.root.certificate])


def test_certificate_of_an_unknown_ca_is_refused_in_the_handshake(est, client):
    draft = client.pki.device_draft(client.key.public_key())
    draft.issuer = client.pki.authority("somebody-else")
    client.certificate = client.pki.issue(draft)
    with pytest.raises(ssl.SSLError, match="UNKNOWN_CA"):
        client.reenrol(est)
    assert est.state.requests == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"usages": ("digital_signature", "key_agreement")}, "KeyUsage"),
        ({"algorithm": hashes.SHA384()}, "Signature algorithm"),
        ({"san": ["other.example"]}, "SubjectAltName"),
        ({}, "SubjectAltName"),
    ],
)
def test_est_server_refuses_a_csr_that_differs(est, pki, change, words):
    client = Client(pki, san=["device.example"])
    reply = client.reenrol(
        est, base64.b64encode(client.csr(**({"san": ["device.example"]} if change else {}) | change))
    )
    assert reply.status == 400
    assert words in reply.text
    assert est.state.issued == []


def test_est_server_keeps_the_subject_alternative_name(est, pki):
    client = Client(pki, san=["device.example", "10.0.0.1"])
    (issued,) = client.reenrol(est, base64.b64encode(client.csr(san=["device.example", "10.0.0.1"]))).certificates()
    names = issued.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names == general_names(["device.example", "10.0.0.1"])


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (base64.encodebytes, 201),
        (lambda csr: base64.b64encode(csr[:-1] + bytes([csr[-1] ^ 1])), 400),
        (lambda csr: base64.b64encode(csr[:-10]), 400),
        (lambda csr: base64.b64encode(csr) + b"\n" * 4096, 413),
    ],
    ids=["line breaks", "bad signature", "cut off", "too large"],
)
def test_est_server_reads_the_csr_strictly(est, client, body, status):
    assert client.reenrol(est, body(client.csr())).status == status


def test_content_type_with_a_parameter_is_refused(est, client):
    reply = client.reenrol(est, headers={"Content-Type": "application/pkcs10; charset=utf-8"})
    assert reply.status == 400


def test_postponed_csr_has_to_come_again(est, client):
    est.state.postpone(3, None)
    first, other = base64.b64encode(client.csr()), base64.b64encode(client.csr())
    reply = client.reenrol(est, first)
    assert (reply.status, reply.headers["Retry-After"], reply.body) == (202, "3", b"")
    assert client.reenrol(est, other).status == 400
    est.state.postpone(None)
    assert client.reenrol(est, first).headers["Retry-After"] is None
    assert client.reenrol(est, other).status == 400


def test_postponed_csr_is_signed_when_it_comes_again(est, client):
    est.state.postpone("Fri, 01 Jan 2100 00:00:00 GMT")
    body = base64.b64encode(client.csr())
    assert [client.reenrol(est, body).status for _ in range(2)] == [202, 201]
    assert len(set(est.state.csrs)) == 1


def _value(certificate, kind):
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _names_of(certificate):
    value = _value(certificate, x509.SubjectAlternativeName)
    return [] if value is None else [name.value for name in value]


def _usage(certificate):
    value = _value(certificate, x509.KeyUsage)
    return None if value is None else (value.digital_signature, value.key_agreement)


def _purposes(certificate):
    return set(_value(certificate, x509.ExtendedKeyUsage) or ())


_SHOWS = {
    "other key": lambda c, _, key: c.public_key() != key.public_key(),
    "other subject": lambda c, client, _: c.subject != client.certificate.subject,
    "other string type": lambda c, client, _: (
        c.subject.rfc4514_string() == client.certificate.subject.rfc4514_string()
        and c.subject.public_bytes() != client.certificate.subject.public_bytes()
    ),
    "other SAN": lambda c, *_: _names_of(c) == ["other.example"],
    "no SAN": lambda c, *_: _names_of(c) == [],
    "added SAN": lambda c, *_: _names_of(c) == ["device.example", "added.example"],
    "CA certificate": lambda c, *_: _value(c, x509.BasicConstraints).ca,
    "no digitalSignature": lambda c, *_: _usage(c) == (False, True),
    "no key usage": lambda c, *_: _usage(c) is None,
    "no clientAuth": lambda c, *_: _purposes(c) == {SERVER_AUTH},
    "no extended key usage": lambda c, *_: _purposes(c) == set(),
    "extra usages": lambda c, *_: _usage(c) == (True, True) and _purposes(c) == {CLIENT_AUTH, SERVER_AUTH},
    "expired": lambda c, *_: c.not_valid_after_utc < datetime.now(UTC),
    "not yet valid": lambda c, *_: c.not_valid_before_utc > datetime.now(UTC) + timedelta(hours=1),
    "slightly ahead": lambda c, *_: c.not_valid_before_utc > datetime.now(UTC),
    "unknown issuer": lambda c, client, _: c.issuer != client.pki.device_ca.name,
    "forged issuer": lambda c, client, _: c.issuer == client.pki.device_ca.name and not _signed_by_device_ca(c, client),
}


def _signed_by_device_ca(certificate, client):
    try:
        certificate.verify_directly_issued_by(client.pki.device_ca.certificate)
    except (InvalidSignature, ValueError):
        return False
    return True


@pytest.mark.parametrize("kind", MISISSUED)
def test_misissued_certificate_is_what_it_says(est, pki, kind):
    client = Client(pki, san=["device.example"])
    key = ec.generate_private_key(ec.SECP256R1())
    est.state.misissue = kind
    reply = client.reenrol(est, base64.b64encode(client.csr(san=["device.example"], key=key)))
    (issued,) = reply.certificates()
    assert reply.status == 201
    assert _SHOWS[kind](issued, client, key)
    others = {name for name, shows in _SHOWS.items() if shows(issued, client, key)} - {kind}
    assert others <= {"slightly ahead"} if kind == "not yet valid" else not others


def test_est_answers_take_the_forms_that_other_servers_give_them(est, client, pki):
    extra = [pki.root.certificate, pki.device_ca.certificate]
    est.state.status, est.state.before, est.state.line_breaks = 200, extra, True
    reply = client.reenrol(est)
    assert (reply.status, reply.certificates()[:2]) == (200, extra)
    assert b"\r\n" in reply.body

    est.state.before, est.state.leave_out_issued = [], True
    assert client.reenrol(est).certificates() == []

    est.state.pem_armour = True
    assert client.reenrol(est).body.startswith(b"-----BEGIN PKCS7-----\n")

    est.state.raw_answer = b"garbage"
    assert client.reenrol(est).body == b"garbage"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_refused_certificate_meets_a_tls_alert(est, client, version):
    client.maximum_version = version
    assert client.reenrol(est).status == 201
    est.state.faults.refuse_certificate(client.certificate)
    with pytest.raises(ssl.SSLError, match="CERTIFICATE_REVOKED"):
        client.reenrol(est)
    assert Client(client.pki).reenrol(est).status == 201
    assert len(est.state.refused_handshakes) == 1


def test_certificates_of_a_refused_key_are_refused_also_when_issued_later(est, client):
    est.state.faults.refuse_certificate(client.key.public_key())
    client.certificate = client.pki.device_certificate(client.key.public_key())
    with pytest.raises(ssl.SSLError, match="CERTIFICATE_REVOKED"):
        client.reenrol(est)


def test_server_that_asks_for_no_certificate_sees_none(est, client):
    est.state.client_certificate = ssl.CERT_NONE
    assert client.ask(est, "GET", "/.well-known/est/cacerts").status == 200
    assert est.state.requests[0].certificate is None


def test_requests_are_recorded_with_who_sent_them_and_how(est, client):
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    connection = client.connect(est)
    for _ in range(2):
        ask_over(connection, "GET", "/.well-known/est/cacerts", headers={"User-Agent": "test"})
    connection.close()
    client.ask(est, "GET", "/elsewhere?a=b")

    first, second, third = est.state.requests
    assert (first.method, first.path, first.status) == ("GET", "/.well-known/est/cacerts", 200)
    assert (third.path, third.status) == ("/elsewhere?a=b", 404)
    assert (first.headers["user-agent"], first.tls_version) == ("test", "TLSv1.2")
    assert first.serial == client.certificate.serial_number
    assert first.public_key == client.public_key
    assert first.connection == second.connection != third.connection
    assert est.state.connections == 2


def test_server_certificate_for_another_name_is_not_believed(est, client, pki):
    est.state.server_identity = pki.server_identity(["elsewhere.example"])
    with pytest.raises(ssl.SSLCertVerificationError):
        client.reenrol(est)


def test_path_label_and_ipv6_are_possible(client, pki):
    with EstServer(EstState(pki, prefix="/.well-known/est/factory-1"), host="::1") as server:
        assert server.base_url == f"https://[::1]:{server.port}/.well-known/est/factory-1"
        assert client.ask(server, "GET", "/.well-known/est/factory-1/cacerts").status == 200
        assert client.ask(server, "GET", "/.well-known/est/cacerts").status == 404
