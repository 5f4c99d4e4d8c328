"""The requests of a rotation to the device gateway: what is sent, which answers are good, and what the others say."""

import json

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from handler.crypto import ecies
from handler.errors import PendingError, RefusedError, ServerRefusedError
from handler.journal.events import EventFactory
from handler.servers.gateway import REASON, GatewayClient
from handler.servers.http import HttpClient, Limits
from handler.servers.transport import Deadline
from tests.simulators.gateway import Gateway, GatewayState
from tests.simulators.pki import FactoryPki, load_identity, spki_pem

SHARED = HealthCheck.function_scoped_fixture  # one server for all examples
PROPERTY = settings(max_examples=25, deadline=None, database=None, suppress_health_check=[SHARED])
JSON = "application/json"
SHOWN = {"Content-Type": JSON}
TEXTS = st.text(st.characters(codec="utf-8"), max_size=20)
NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)


class World:
    """A factory, a device in it, and the key that comes next."""

    def __init__(self, folder):
        self.pki = FactoryPki()
        self.key, self.next_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
        self.certificate = self.pki.device_certificate(self.key.public_key())
        self.pubkey, self.next_pubkey = (spki_pem(key.public_key()) for key in (self.key, self.next_key))
        self.ca_file = folder / "root.crt"
        self.ca_file.write_bytes(self.pki.ca_bundle_pem())

    def client(self, server, config_url=None):
        http = HttpClient(
            self.ca_file,
            lambda context: load_identity(context, self.key, self.certificate),
            Deadline(10),
            Limits(retry_delays=()),
        )
        return GatewayClient(server.url, config_url or f"{server.url}/config", http)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("trust"))


@pytest.fixture
def state(world):
    made = GatewayState(world.pki)
    made.register(world.certificate)
    return made


@pytest.fixture
def server(state):
    with Gateway(state) as started:
        yield started


@pytest.fixture
def gateway(world, server):
    client = world.client(server)
    yield client
    client.http.close()


def secret(key, plaintext=b"top"):
    return {"Value": ecies.encrypt(key.public_key(), plaintext), "Unencrypted": False, "OnChanged": ["/x", "y"]}


OPERATIONS = {
    "announce": ("PATCH", "/device", lambda gateway, world: gateway.announce_key(world.next_pubkey)),
    "fetch": ("GET", "/config-device", lambda gateway, world: gateway.device_config()),
    "store": ("PATCH", "/config", lambda gateway, world: gateway.update_device_config({}, world.pubkey)),
    "report": ("POST", "/events", lambda gateway, world: gateway.post_events([])),
}
SAID = {
    "announce": "the next public key was refused",
    "fetch": "this device's files were not returned",
    "store": "this device's files were not accepted",
    "report": "the events were not accepted",
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_each_operation_is_one_request_with_the_certificate_and_json(world, state, gateway, operation):
    method, path, perform = OPERATIONS[operation]
    perform(gateway, world)
    (request,) = state.requests
    assert (request.method, request.path, request.headers["Content-Type"]) == (method, path, JSON)
    assert request.serial == world.certificate.serial_number
    assert request.status in (200, 204)


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("status", [400, 401, 403, 409, 413])
def test_refusal_says_what_could_not_be_done_and_the_gateways_words(world, state, gateway, operation, status):
    method, path, perform = OPERATIONS[operation]
    state.faults.add(method, path, status=status, body="because\n of that")
    with pytest.raises(ServerRefusedError) as caught:
        perform(gateway, world)
    assert caught.value.status == status
    assert str(caught.value).partition(": ")[2].partition(": ")[2].startswith(f"{SAID[operation]}: ")
    assert str(caught.value).endswith(f" answered HTTP {status}: because of that")


@pytest.mark.parametrize("operation", OPERATIONS)
def test_gateway_in_trouble_is_pending(world, state, gateway, operation):
    method, path, perform = OPERATIONS[operation]
    state.faults.add(method, path, status=502)
    with pytest.raises(PendingError, match="answered HTTP 502"):
        perform(gateway, world)


@pytest.mark.parametrize("operation", ["store", "report"])
@pytest.mark.parametrize("status", [200, 201, 202, 203, 204])
def test_every_status_up_to_204_says_that_it_was_taken(world, state, gateway, operation, status):
    method, path, perform = OPERATIONS[operation]
    state.faults.add(method, path, status=status, headers=SHOWN)
    perform(gateway, world)


@pytest.mark.parametrize("operation", ["store", "report"])
@pytest.mark.parametrize("status", [205, 206, 299, 303, 304, 404])
def test_no_other_status_says_that_it_was_taken(world, state, gateway, operation, status):
    method, path, perform = OPERATIONS[operation]
    state.faults.add(method, path, status=status, headers=SHOWN)
    with pytest.raises(ServerRefusedError) as caught:
        perform(gateway, world)
    assert caught.value.status == status


# The next key


def test_announced_key_is_the_one_that_comes_next(world, state, gateway):
    gateway.announce_key(world.next_pubkey)
    assert state.next_pubkey == world.next_pubkey
    assert state.requests[0].json() == {"next_pubkey": world.next_pubkey}


@pytest.mark.parametrize("status", [404, 405])
def test_gateway_that_knows_no_rotation_is_named_as_such(world, state, gateway, status):
    state.supports_rotation, state.unknown_status = False, status
    with pytest.raises(ServerRefusedError, match=f"does not support key rotation.*HTTP {status}.*keeps its") as caught:
        gateway.announce_key(world.next_pubkey)
    assert caught.value.status == status


@pytest.mark.parametrize("status", [201, 202, 204])
def test_key_counts_as_announced_with_status_200_only(world, state, gateway, status):
    state.faults.add("PATCH", "/device", status=status)
    with pytest.raises(ServerRefusedError, match=f"the next public key was refused.*HTTP {status}"):
        gateway.announce_key(world.next_pubkey)


# The device's own files


def test_files_of_the_device_are_fetched_as_they_are(world, state, gateway):
    files = {"b": secret(world.key), "a": {"Value": "x", "Unencrypted": True, "OnChanged": None, "Note": 1}}
    state.config_device = files
    assert gateway.device_config() == files
    assert list(gateway.device_config()) == ["b", "a"]
    assert state.requests[0].body == b""


def test_device_without_files_of_its_own_has_an_empty_configuration(gateway):
    assert gateway.device_config() == {}


@pytest.mark.parametrize("status", [201, 202, 206])
def test_files_are_taken_with_status_200_only(state, gateway, status):
    state.faults.add("GET", "/config-device", status=status, headers=SHOWN, body="{}")
    with pytest.raises(ServerRefusedError, match="files were not returned"):
        gateway.device_config()


@pytest.mark.parametrize("body", ["", "{", "[]", '{"a": 1}', '{"a": {"Value": 1}}', '{"a": {"X": 1}}'])
def test_answer_that_is_no_configuration_is_refused_by_the_name_of_its_address(server, state, gateway, body):
    state.faults.add("GET", "/config-device", status=200, headers=SHOWN, body=body)
    with pytest.raises(RefusedError) as caught:
        gateway.device_config()
    assert f"{server.url.removeprefix('https://')}: GET /config-device: its answer" in str(caught.value)


def test_files_are_stored_in_the_form_of_the_gateway_with_the_key_they_are_encrypted_to(world, state, gateway):
    entry = secret(world.next_key)
    gateway.announce_key(world.next_pubkey)
    gateway.update_device_config({"a": entry, "b": {"Value": "x", "Unencrypted": True}}, world.next_pubkey)
    assert state.updates == [
        {
            "reason": REASON,
            "files": [
                {"name": "a", "value": entry["Value"], "unencrypted": False, "on-changed": ["/x", "y"]},
                {"name": "b", "value": "x", "unencrypted": True},
            ],
            "public-key": world.next_pubkey,
        }
    ]
    assert state.files_readable_with(world.next_key) == {"a": b"top", "b": b"x"}


def test_files_for_a_key_that_the_gateway_does_not_know_are_refused_in_its_words(world, gateway):
    with pytest.raises(ServerRefusedError, match="neither the device's key nor its next one"):
        gateway.update_device_config({"a": secret(world.next_key)}, world.next_pubkey)


@PROPERTY
@given(st.dictionaries(NAMES, st.tuples(TEXTS, st.lists(TEXTS, max_size=2))))
def test_whatever_text_is_in_the_files_is_stored_and_fetched_again_unchanged(world, state, gateway, content):
    state.config_device = None
    files = {name: {"Value": text, "Unencrypted": True, "OnChanged": run} for name, (text, run) in content.items()}
    gateway.update_device_config(files, world.pubkey)
    found = gateway.device_config()
    assert {name: (entry["Value"], entry.get("OnChanged") or []) for name, entry in found.items()} == content
    assert list(found) == list(content)


def test_configurations_may_live_at_another_address_than_everything_else(world, server, state):
    with Gateway(GatewayState(world.pki)) as configurations:
        configurations.state.register(world.certificate, config_device={"a": {"Value": "x", "Unencrypted": True}})
        client = world.client(server, f"{configurations.url}/config")
        client.announce_key(world.next_pubkey)
        assert list(client.device_config()) == ["a"]
        client.update_device_config({}, world.pubkey)
        client.post_events([])
        client.http.close()
        assert configurations.state.calls() == [("GET", "/config-device"), ("PATCH", "/config")]
    assert state.calls() == [("PATCH", "/device"), ("POST", "/events")]


# Events


def test_events_are_an_array_in_their_order_without_blanks(state, gateway):
    make = EventFactory("certs-1", ("lmp-1", "1")).make
    events = (make("one"), make("two", failure="Grüße"))
    gateway.post_events(events)
    assert state.events == list(events)
    assert state.requests[0].body == json.dumps(events, separators=(",", ":")).encode("ascii")


# The connection


def test_all_operations_share_one_connection_which_is_closed_in_the_end(world, server, state):
    client = world.client(server)
    for _, _, perform in OPERATIONS.values():
        perform(client, world)
    client.http.close()
    assert {request.connection for request in state.requests} == {1}
    perform(client, world)
    client.http.close()
    assert state.requests[-1].connection == 2
