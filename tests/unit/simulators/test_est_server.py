"""The simulators, questioned by a plain client: they are as strict as the servers that they stand for."""

import base64
import http.client
import json
import socket
import ssl
import threading
import time
import uuid
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import pkcs7

from tests.simulators.certs_only import certs_only
from tests.simulators.client import Client, ask_over
from tests.simulators.device import make_device
from tests.simulators.device_config import DEVICE_FILES, FACTORY_FILES, encrypted, plaintexts
from tests.simulators.est_server import EstServer, EstState
from tests.simulators.factory import running_factory
from tests.simulators.gateway import Gateway, GatewayState
from tests.simulators.issuing import MISISSUED
from tests.simulators.pki import CLIENT_AUTH, SERVER_AUTH, FactoryPki, general_names, spki_pem
from tests.simulators.relay import Relay

DATA = Path(__file__).resolve().parents[2] / "data"
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def pki():
    return FactoryPki()


@pytest.fixture
def client(pki):
    return Client(pki)


@pytest.fixture
def est(pki):
    with EstServer(EstState(pki)) as server:
        yield server


@pytest.fixture
def gateway(pki, client):
    state = GatewayState(pki)
    state.register(client.certificate)
    with Gateway(state) as server:
        yield server


# The EST server


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
    client = _client_with_subject(pki, x509.load_der_x509_csr(csr).subject)
    assert client.reenrol(est, reference["csr_base64"].encode()).status == 201


def _client_with_subject(pki, subject):
    client = Client(pki)
    draft = pki.device_draft(client.key.public_key())
    draft.subject = subject
    client.certificate = pki.issue(draft)
    return client


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
    except Exception:
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


# The gateway


def _announce(gateway, client, following):
    return client.send_json(gateway, "PATCH", "/device", {"next_pubkey": following.public_key})


def _event(name="CertRotationStarted", correlation="certs-1", **changes):
    payload = {"correlationId": correlation, "success": True, "targetName": "target", "version": "1"}
    return {
        "id": str(uuid.uuid4()),
        "deviceTime": "2026-11-23T11:35:46Z",
        "event": payload,
        "eventType": {"id": name, "version": 0},
    } | changes


def test_every_request_of_the_reference_client_is_accepted(pki):
    wire = json.loads((DATA / "wire.json").read_text())["requests"]
    (enrolment,) = [each for each in wire if each["to"] == "est"]
    client = _client_with_subject(pki, x509.load_der_x509_csr(base64.b64decode(enrolment["body"])).subject)
    files = encrypted(DEVICE_FILES, client.key.public_key())
    state = GatewayState(pki)
    state.register(client.certificate, dict(files), dict(files))
    with Gateway(state) as gateway, EstServer(EstState(pki)) as est:
        for each in wire:
            server = gateway if each["to"] == "gateway" else est
            headers = {name: each["headers"][name] for name in ("Content-Type", "User-Agent")}
            reply = client.ask(server, each["method"], each["path"], each["body"].encode() or None, headers)
            assert reply.status == (200 if each["to"] == "gateway" else 201), each
    assert len(state.event_names("certs-1669058841")) == 6
    assert state.config_device["wireguard-client"]["OnChanged"] == DEVICE_FILES["wireguard-client"].on_changed
    assert state.next_pubkey == json.loads(wire[3]["body"])["next_pubkey"]


def test_only_the_registered_key_may_ask(gateway, client, pki):
    assert client.ask(gateway, "GET", "/config").status == 204
    assert Client(pki).ask(gateway, "GET", "/config").status == 403
    client.anonymous = True
    with pytest.raises(ssl.SSLError, match="CERTIFICATE_REQUIRED"):
        client.ask(gateway, "GET", "/config")


def test_first_sight_of_the_next_key_denies_the_old_one(gateway, client):
    following = client.renewed()
    assert following.ask(gateway, "GET", "/config").status == 403
    assert _announce(gateway, client, following).status == 200
    kept = client.connect(gateway)
    assert ask_over(kept, "GET", "/config").status == 204

    assert following.ask(gateway, "GET", "/config").status == 204
    assert client.ask(gateway, "GET", "/config").status == 403
    assert ask_over(kept, "GET", "/config").status == 403
    kept.close()
    assert gateway.state.current == following.public_key
    assert (gateway.state.next_pubkey, gateway.state.denied) == (None, {client.public_key})


def test_old_key_can_be_denied_in_the_handshake(gateway, client):
    gateway.state.denied_with = "alert"
    following = client.renewed()
    _announce(gateway, client, following)
    assert following.ask(gateway, "GET", "/config").status == 204
    with pytest.raises(ssl.SSLError, match="CERTIFICATE_REVOKED"):
        client.ask(gateway, "GET", "/config")


@pytest.mark.parametrize("refusal", [401, 403, "alert"])
def test_refused_new_certificate_leaves_the_old_one_in_use(gateway, client, refusal):
    gateway.state.refuse_new_certificate = refusal
    following = client.renewed()
    _announce(gateway, client, following)
    if refusal == "alert":
        with pytest.raises(ssl.SSLError, match="CERTIFICATE_REVOKED"):
            following.ask(gateway, "GET", "/config")
    else:
        assert following.ask(gateway, "GET", "/config").status == refusal
    assert client.ask(gateway, "GET", "/config").status == 204
    assert gateway.state.current == client.public_key


def test_gateway_without_rotation_knows_no_next_key_and_panics_at_another(gateway, client):
    gateway.state.supports_rotation, gateway.state.unknown_status = False, 405
    following = client.renewed()
    assert _announce(gateway, client, following).status == 405
    assert following.ask(gateway, "GET", "/config").status == 502
    assert client.ask(gateway, "GET", "/config").status == 204


@pytest.mark.parametrize("body", ["{", "[]", "{}", '{"next_pubkey": "key"}', '{"next_pubkey": 1}', '{"other": ""}'])
def test_announcement_that_is_no_key_is_refused(gateway, client, body):
    assert client.ask(gateway, "PATCH", "/device", body.encode(), JSON).status == 400
    assert gateway.state.next_pubkey is None


def test_next_key_on_another_curve_is_refused(gateway, client):
    key = spki_pem(ec.generate_private_key(ec.SECP521R1()).public_key())
    assert client.send_json(gateway, "PATCH", "/device", {"next_pubkey": key}).status == 400


def test_body_that_does_not_say_it_is_json_is_refused(gateway, client):
    assert client.ask(gateway, "POST", "/events", b"[]", {"Content-Type": "text/plain"}).status == 415


def test_unknown_path_is_not_found(gateway, client):
    assert client.ask(gateway, "GET", "/other").status == 404
    assert client.ask(gateway, "DELETE", "/config").status == 404


def test_configuration_is_sent_again_only_when_it_changed(gateway, client):
    gateway.state.config = encrypted(FACTORY_FILES, client.key.public_key())
    reply = client.ask(gateway, "GET", "/config")
    assert json.loads(reply.body) == gateway.state.config
    since = {"If-Modified-Since": reply.headers["Date"]}
    assert client.ask(gateway, "GET", "/config", headers=since).status == 304
    earlier = format_datetime(gateway.state.config_modified - timedelta(seconds=1), usegmt=True)
    assert client.ask(gateway, "GET", "/config", headers={"If-Modified-Since": earlier}).status == 200


def test_operator_cannot_change_the_configuration_while_a_key_is_announced(gateway, client):
    gateway.state.set_file("token", b"secret")
    assert gateway.state.files_readable_with(client.key) == {"token": b"secret"}
    following = client.renewed()
    _announce(gateway, client, following)
    with pytest.raises(RuntimeError, match="locked"):
        gateway.state.set_file("token", b"other")
    following.ask(gateway, "GET", "/config")
    gateway.state.set_file("token", b"other")
    assert gateway.state.files_readable_with(following.key) == {"token": b"other"}


def _update(client, **changes):
    files = [{"name": "note", "value": "new", "unencrypted": True, "on-changed": ["/bin/true"]}]
    return {"reason": "test", "files": files, "public-key": client.public_key} | changes


def test_update_of_the_configuration_is_stored_in_both_places(gateway, client):
    gateway.state.config = {"other": {"Value": "x", "Unencrypted": True}}
    gateway.state.config_modified -= timedelta(days=1)
    before = gateway.state.config_modified
    assert client.ask(gateway, "GET", "/config-device").status == 204
    assert client.send_json(gateway, "PATCH", "/config", _update(client)).status == 200

    stored = {"Value": "new", "Unencrypted": True, "OnChanged": ["/bin/true"]}
    assert json.loads(client.ask(gateway, "GET", "/config-device").body) == {"note": stored}
    assert gateway.state.config == {"other": {"Value": "x", "Unencrypted": True}, "note": stored}
    assert gateway.state.config_modified > before


_FILE = {"name": "a", "value": "b", "unencrypted": True}


@pytest.mark.parametrize(
    "changes",
    [
        {"public-key": "no key"},
        {"public-key": spki_pem(ec.generate_private_key(ec.SECP256R1()).public_key())},
        {"files": {}},
        {"files": ["name"]},
        {"files": [{"name": "a", "value": "b"}]},
        {"files": [_FILE | {"OnChanged": []}]},
        {"files": [_FILE | {"on-changed": None}]},
        {"files": [_FILE | {"on-changed": [1]}]},
        {"files": [_FILE | {"unencrypted": "true"}]},
        {"files": [_FILE, _FILE]},
        {"extra": 1},
    ],
)
def test_update_of_another_shape_is_refused(gateway, client, changes):
    assert client.send_json(gateway, "PATCH", "/config", _update(client, **changes)).status == 400
    assert gateway.state.config_device is None


def test_unknown_field_of_a_file_is_accepted_from_whoever_was_given_it(gateway, client):
    gateway.state.config_device = {"a": {"Value": "b", "Unencrypted": True, "Revision": 3}}
    update = _update(client, files=[_FILE | {"Revision": 3}])
    assert client.send_json(gateway, "PATCH", "/config", update).status == 200
    assert gateway.state.config_device["a"]["Revision"] == 3


def test_events_are_kept_in_order_and_counted_once(gateway, client):
    started, completed = _event(), _event("CertRotationCompleted")
    completed["event"]["success"] = False
    for batch in ([started], [started, completed], [_event(correlation="certs-2")]):
        assert client.send_json(gateway, "POST", "/events", batch).status == 200
    assert len(gateway.state.events) == 4
    assert gateway.state.event_names("certs-1") == ["CertRotationStarted", "CertRotationCompleted failed"]
    assert gateway.state.completed("certs-1") == [completed]
    assert gateway.state.completed("certs-2") == []
    assert gateway.state.delivered_with(started) == [client.public_key] * 2


@pytest.mark.parametrize(
    "event",
    [
        [],
        {},
        _event(id="1"),
        _event(id=str(uuid.uuid1())),
        _event(deviceTime="yesterday"),
        _event(extra=1),
        _event(eventType={"id": "x"}),
        _event(event={"correlationId": "certs-1", "success": "true", "targetName": "", "version": ""}),
        _event(event={"correlationId": "certs-1", "success": True, "targetName": "", "version": "", "details": None}),
    ],
)
def test_event_of_another_shape_is_refused(gateway, client, event):
    assert client.send_json(gateway, "POST", "/events", [event]).status == 400
    assert gateway.state.events == []


def test_events_with_an_unusable_correlation_id_disappear(gateway, client):
    reply = client.send_json(gateway, "POST", "/events", [_event(correlation="certs 1"), _event()])
    assert reply.status == 200
    assert (len(gateway.state.events), len(gateway.state.dropped_events)) == (1, 1)


def test_more_than_100_kb_of_events_are_refused(gateway, client):
    events = [_event() for _ in range(500)]
    assert client.send_json(gateway, "POST", "/events", events).status == 413


# Faults


def test_dropped_before_the_work_leaves_nothing_done(gateway, client):
    gateway.state.faults.add("POST", "/events", drop="before")
    with pytest.raises(http.client.RemoteDisconnected):
        client.send_json(gateway, "POST", "/events", [_event()])
    assert gateway.state.events == []
    assert client.send_json(gateway, "POST", "/events", [_event()]).status == 200
    assert [request.status for request in gateway.state.requests] == [None, 200]


def test_dropped_after_the_work_has_done_it(est, client):
    est.state.faults.add("POST", "/simplereenroll", drop="after")
    with pytest.raises(http.client.RemoteDisconnected):
        client.reenrol(est)
    assert len(est.state.issued) == 1


def test_reset_is_a_reset(est, client):
    est.state.faults.add("*", "*", reset=True)
    with pytest.raises(ConnectionResetError):
        client.reenrol(est)
    assert est.state.issued == []


def test_status_stands_for_the_answer_with_or_without_the_work(est, client):
    est.state.faults.add("POST", "*", status=503, headers={"Retry-After": "7"}, body="later")
    est.state.faults.add("POST", "*", status=502, work=True)
    reply = client.reenrol(est)
    assert (reply.status, reply.headers["Retry-After"], reply.text) == (503, "7", "later")
    assert est.state.issued == []
    assert client.reenrol(est).status == 502
    assert len(est.state.issued) == 1


def test_fault_waits_for_its_turn_and_ends(est, client):
    fault = est.state.faults.add("GET", "/cacerts", status=500, skip=1, times=2)
    statuses = [client.ask(est, "GET", "/.well-known/est/cacerts").status for _ in range(4)]
    assert statuses == [200, 500, 500, 200]
    assert fault.used == 2


def test_captive_portal_answers_everything_with_a_web_page(gateway, client):
    gateway.state.faults.captive_portal(times=None)
    for path in ("/config", "/other"):
        reply = client.ask(gateway, "GET", path)
        assert (reply.status, reply.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    gateway.state.faults.clear()
    assert client.ask(gateway, "GET", "/config").status == 204


def test_answer_can_be_cut_off_or_huge(est, client):
    est.state.faults.add("GET", "/cacerts", cut=10)
    est.state.faults.add("GET", "/cacerts", huge=2_000_000)
    with pytest.raises(http.client.IncompleteRead):
        client.ask(est, "GET", "/.well-known/est/cacerts")
    assert len(client.ask(est, "GET", "/.well-known/est/cacerts").body) == 2_000_000


def test_delay_comes_before_the_answer(est, client):
    est.state.faults.add("GET", "/cacerts", delay=0.05)
    started = time.monotonic()
    assert client.ask(est, "GET", "/.well-known/est/cacerts").status == 200
    assert time.monotonic() - started >= 0.05


def test_server_that_hangs_says_nothing_until_told_to(est, client):
    until = threading.Event()
    est.state.faults.add("GET", "/cacerts", hang=until)
    with pytest.raises(TimeoutError):
        client.ask(est, "GET", "/.well-known/est/cacerts", timeout=0.1)
    until.set()


def test_connections_can_be_spoilt_before_tls(est, client):
    est.state.faults.add_connection(hang=60.0)
    est.state.faults.add_connection(reset=True)
    with pytest.raises(TimeoutError):
        client.ask(est, "GET", "/.well-known/est/cacerts", timeout=0.1)
    with pytest.raises(ConnectionResetError):
        client.ask(est, "GET", "/.well-known/est/cacerts")
    assert client.ask(est, "GET", "/.well-known/est/cacerts").status == 200
    assert est.state.connections == 1


# Starting and stopping


class Never(threading.Event):
    """An event that nobody sets; it tells when somebody begins to wait for it."""

    def __init__(self):
        super().__init__()
        self.awaited = threading.Event()

    def wait(self, timeout=None):
        self.awaited.set()
        return super().wait(timeout)


def test_stopping_ends_idle_hanging_and_half_open_connections_at_once(pki, client):
    threads = threading.active_count()
    server = EstServer(EstState(pki)).start()
    never = Never()
    server.state.faults.add("GET", "/cacerts", hang=never)
    idle, hanging = client.connect(server), client.connect(server)
    ask_over(idle, "GET", "/.well-known/est/csrattrs")
    hanging.request("GET", "/.well-known/est/cacerts")
    with socket.create_connection((server.host, server.port)):
        assert never.awaited.wait(10.0)
        started = time.monotonic()
        server.stop()
    assert time.monotonic() - started < 2.0
    assert threading.active_count() == threads
    idle.close()
    hanging.close()


def test_stopped_server_refuses_connections_and_comes_back_on_its_port(pki, client):
    server = EstServer(EstState(pki)).start()
    url = server.url
    server.stop()
    with pytest.raises(ConnectionRefusedError):
        client.reenrol(server)
    with server:
        assert server.url == url
        assert client.reenrol(server).status == 201


def test_failure_of_a_simulator_itself_comes_out(pki, client):
    server = EstServer(EstState(pki, misissue="no such kind")).start()
    with pytest.raises(http.client.RemoteDisconnected):
        client.reenrol(server)
    with pytest.raises(KeyError):
        server.stop()


def test_relay_makes_the_way_longer(est, client):
    with Relay(est.port, delay=0.02) as relay:
        started = time.monotonic()
        assert client.reenrol(relay).status == 201
        # One round trip each for TCP, TLS 1.3 and the request.
        assert 0.12 <= time.monotonic() - started < 1.0
    assert relay.connections == 1
    assert relay.bytes_to_server > 1000 < relay.bytes_to_client


def test_device_of_a_factory_knows_the_way_to_its_servers(tmp_path):
    with running_factory(tmp_path / "device", delay=0.001, san=["device.example"]) as factory:
        to_gateway, to_est = factory.relays
        client = Client(factory.pki, certificate=factory.device.certificate)
        with factory.device.private_key() as key:
            client.key = key
        for relay, url in ((to_gateway, factory.device.sota()["tls"]["server"]), (to_est, factory.device.est_url)):
            assert url.startswith(relay.url)
        reply = client.ask(to_gateway, "GET", "/config-device")
        assert json.loads(reply.body) == factory.device.config_device
        since = format_datetime(factory.gateway.config_modified, usegmt=True)
        assert client.ask(to_gateway, "GET", "/config", headers={"If-Modified-Since": since}).status == 304
        assert client.reenrol(to_est, base64.b64encode(client.csr(san=["device.example"]))).status == 201


# The device


@pytest.fixture(params=["file", "token"])
def device(request, tmp_path, pki):
    return make_device(
        tmp_path / "device",
        pki,
        keys=request.param,
        gateway_url="https://gateway.example:8443",
        est_url="https://est.example:8443/.well-known/est",
    )


def test_device_is_whole_and_reads_its_configuration(device):
    identity = device.current_identity()
    assert identity.whole
    assert identity.certificate == device.certificate
    assert device.plaintexts() == plaintexts({**FACTORY_FILES, **DEVICE_FILES})
    assert device.encrypted_config() == device.config
    assert device.config.items() >= device.config_device.items()


def test_key_is_where_registration_leaves_it(device):
    if device.token is None:
        assert device.private_key_files() == [device.storage / "pkey.pem"]
        assert device.snapshot()["var/sota/pkey.pem"].mode == 0o600
        return
    found = [(each.object_class, each.id, each.label) for each in device.token_objects()]
    assert found == [("CERTIFICATE", "03", "client"), ("PRIVATE_KEY", "01", "tls"), ("PUBLIC_KEY", "01", "tls")]
    assert device.private_key_files() == []
    assert "pass" not in device.sota()["p11"]


def test_request_file_is_as_fioctl_writes_it(device):
    device.write_request("certs-1669058841")
    assert device.request_file.read_text() == (
        "ESTSERVER=https://est.example:8443/.well-known/est\n"
        "PKEYIDS=01,07\nCERTIDS=03,09\nROTATIONID=certs-1669058841\n"
    )
    device.write_request("certs-2", pkeyids=None, extra="x")
    assert device.request_file.read_text().splitlines()[1:] == ["CERTIDS=03,09", "ROTATIONID=certs-2", "EXTRA=x"]


def test_snapshot_shows_any_change_and_nothing_else(device):
    before = device.snapshot()
    assert device.snapshot() == before
    device.sota_toml.chmod(0o600)
    (device.storage / "left-over").write_text("x")
    after = device.snapshot()
    assert {name for name in after if after[name] != before.get(name)} == {"var/sota/sota.toml", "var/sota/left-over"}


def test_program_runs_in_the_environment_that_fioconfig_gives_it(device):
    assert device.environment().keys() >= {"CONFIG_FILE", "STORAGE_DIR", "SOTA_DIR", "FIOCONFIG_BIN", "PATH"}
    done = device.run("--version")
    assert (done.returncode, done.stdout.split()[0]) == (0, "renew-client-cert")
