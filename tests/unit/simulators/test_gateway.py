"""The simulated device gateway, questioned by a plain client: as strict as the one that it stands for."""

import base64
import json
import ssl
import uuid
from datetime import timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from tests.simulators.client import Client, ask_over
from tests.simulators.device_config import DEVICE_FILES, FACTORY_FILES, encrypted
from tests.simulators.est_server import EstServer, EstState
from tests.simulators.gateway import Gateway, GatewayState
from tests.simulators.pki import spki_pem

from .asking import an_event, client_with_subject

DATA = Path(__file__).resolve().parents[2] / "data"
JSON = {"Content-Type": "application/json"}


def _announce(gateway, client, following):
    return client.send_json(gateway, "PATCH", "/device", {"next_pubkey": following.public_key})


def test_every_request_of_the_reference_client_is_accepted(pki):
    wire = json.loads((DATA / "wire.json").read_text())["requests"]
    (enrolment,) = [each for each in wire if each["to"] == "est"]
    client = client_with_subject(pki, x509.load_der_x509_csr(base64.b64decode(enrolment["body"])).subject)
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


def test_unknown_field_of_a_file_is_accepted_from_the_device_that_was_given_it(gateway, client):
    gateway.state.config_device = {"a": {"Value": "b", "Unencrypted": True, "Revision": 3}}
    update = _update(client, files=[_FILE | {"Revision": 3}])
    assert client.send_json(gateway, "PATCH", "/config", update).status == 200
    assert gateway.state.config_device["a"]["Revision"] == 3


def test_events_are_kept_in_order_and_counted_once(gateway, client):
    started, completed = an_event(), an_event("CertRotationCompleted")
    completed["event"]["success"] = False
    for batch in ([started], [started, completed], [an_event(correlation="certs-2")]):
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
        an_event(id="1"),
        an_event(id=str(uuid.uuid1())),
        an_event(deviceTime="yesterday"),
        an_event(extra=1),
        an_event(eventType={"id": "x"}),
        an_event(event={"correlationId": "certs-1", "success": "true", "targetName": "", "version": ""}),
        an_event(event={"correlationId": "certs-1", "success": True, "targetName": "", "version": "", "details": None}),
    ],
)
def test_event_of_another_shape_is_refused(gateway, client, event):
    assert client.send_json(gateway, "POST", "/events", [event]).status == 400
    assert gateway.state.events == []


def test_events_with_an_unusable_correlation_id_disappear(gateway, client):
    reply = client.send_json(gateway, "POST", "/events", [an_event(correlation="certs 1"), an_event()])
    assert reply.status == 200
    assert (len(gateway.state.events), len(gateway.state.dropped_events)) == (1, 1)


def test_more_than_100_kb_of_events_are_refused(gateway, client):
    events = [an_event() for _ in range(500)]
    assert client.send_json(gateway, "POST", "/events", events).status == 413
