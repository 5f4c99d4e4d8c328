"""Whole rotations of the real program, as fioconfig calls it, against the simulators."""

import json
from pathlib import Path

import pytest

from tests.simulators.factory import running_factory

WIRE = json.loads((Path(__file__).parents[1] / "data/wire.json").read_text())
SWITCHED, DONE, REFUSED = 123, 0, 78


@pytest.fixture(params=["file", "token"])
def factory(request, tmp_path):
    with running_factory(tmp_path / "device", request.param, with_device_cas=True) as running:
        yield running


def rotate(factory, rotation_id):
    factory.device.write_request(rotation_id)
    done = factory.device.run()
    assert done.returncode == SWITCHED, done.stderr
    return done


def test_three_rotations_in_a_row_swap_the_slots_each_time(factory):
    device = factory.device
    before, plaintexts = device.config_encrypted.stat(), device.plaintexts()
    keys = [device.current_identity().key]
    for number in range(3):
        connections = factory.est.connections + factory.gateway.connections
        rotate(factory, f"certs-{number}")
        identity = device.current_identity()
        keys.append(identity.key)
        assert identity.whole
        assert identity.public_key == factory.gateway.current
        assert factory.est.connections + factory.gateway.connections - connections <= 5
        assert device.plaintexts() == plaintexts
        after = device.config_encrypted.stat()
        assert (after.st_mode, after.st_mtime_ns) == (before.st_mode, before.st_mtime_ns)
        with device.private_key() as key:
            assert factory.gateway.files_readable_with(key)
        assert len(factory.gateway.event_names(f"certs-{number}")) == 7
    if device.token:
        assert keys == ["01", "07", "01", "07"]
        classes = [each.object_class for each in device.token_objects()]
        assert {name: classes.count(name) for name in set(classes)} == {
            "PRIVATE_KEY": 2,
            "PUBLIC_KEY": 2,
            "CERTIFICATE": 2,
        }
    else:
        assert len(set(keys)) == 4
        # The factory's, the one in use, and the one before it until the next call.
        assert len(device.private_key_files()) == 3


def test_the_next_call_has_nothing_to_do_but_tidying_up(factory):
    rotate(factory, "certs-1")
    for _ in range(2):
        done = factory.device.run()
        assert done.returncode == DONE
        assert not (factory.device.storage / "renew-client-cert/rotation.json").exists()
    assert "complete already" in done.stdout
    if not factory.device.token:
        assert len(factory.device.private_key_files()) == 2


def test_requests_are_those_of_the_reference_client(factory):
    rotate(factory, "certs-1669058841")
    reference = [each for each in WIRE["requests"] if each["path"] != "/events"]
    ours = [each for each in [*factory.est.requests, *factory.gateway.requests] if each.path != "/events"]
    # Beside the trial and the first look at the device's files, of which the reference has nothing.
    ours = [each for each in ours if not each.path.endswith("/cacerts")]
    ours.pop(next(number for number, each in enumerate(ours) if each.path == "/config-device"))
    assert [(each.method, each.path) for each in ours] == [(each["method"], each["path"]) for each in reference]
    for mine, theirs in zip(ours, reference, strict=True):
        assert mine.headers["Content-Type"] == theirs["headers"]["Content-Type"]
        if theirs["headers"]["Content-Type"] == "application/json" and theirs["body"]:
            assert shape(mine.json()) == shape(json.loads(theirs["body"]))
    events = [
        each for request in WIRE["requests"] if request["path"] == "/events" for each in json.loads(request["body"])
    ]
    sent = factory.gateway.unique_events()
    assert [each["eventType"]["id"] for each in sent[:-1]] == [each["eventType"]["id"] for each in events]
    assert [shape(each) for each in sent[:-1]] == [shape(each) for each in events]
    assert sent[-1]["eventType"]["id"] == "CertRotationCompleted"


def test_exactly_one_certificate_is_presented_although_the_ca_file_holds_its_issuer(factory):
    rotate(factory, "certs-1")
    assert {each.chain_length for each in [*factory.est.requests, *factory.gateway.requests]} == {1}


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"estserver": None}, "ESTSERVER is missing"),
        ({"rotationid": None}, "ROTATIONID is missing"),
        ({"estserver": "http://est.example/.well-known/est"}, "https"),
        ({"estserver": "https://user:hunter2@est.example/"}, "credentials"),
        ({"rotationid": "certs 1"}, "ROTATIONID"),
    ],
)
def test_a_request_that_cannot_be_right_changes_nothing(factory, overrides, said):
    device = factory.device
    device.write_request("certs-1", **overrides)
    before = device.snapshot()
    done = device.run()
    assert done.returncode == REFUSED
    assert said in done.stderr
    assert "hunter2" not in done.stderr
    assert device.snapshot() == before
    assert factory.gateway.requests == factory.est.requests == []


@pytest.mark.parametrize("overrides", [{"pkeyids": "1,01"}, {"pkeyids": "07"}, {"certids": "03,10"}, {"certids": None}])
def test_ids_are_two_or_more_distinct_ones_from_01_to_09(tmp_path, overrides):
    with running_factory(tmp_path / "device", "token") as factory:
        factory.device.write_request("certs-1", **overrides)
        before = factory.device.snapshot()
        done = factory.device.run()
        assert (done.returncode, factory.device.snapshot()) == (REFUSED, before)


def test_no_secret_is_in_any_output_journal_or_event(factory):
    device = factory.device
    done = rotate(factory, "certs-1")
    files = [path.read_text() for path in (device.storage / "renew-client-cert").iterdir()]
    files.append((device.storage / "cert-rotation.state.completed").read_text())
    everything = " ".join([done.stdout, done.stderr, *files, json.dumps(factory.gateway.events)])
    secrets = ["PRIVATE KEY", "correct horse", *([device.token.pin] if device.token else [])]
    assert [each for each in secrets if each in everything] == []


def test_the_completed_state_is_one_that_the_stock_handler_understands(factory):
    rotate(factory, "certs-1669058841")
    text = (factory.device.storage / "cert-rotation.state.completed").read_text()
    assert '"RotationId":"certs-1669058841",' in text
    assert list(json.loads(text)) == list(WIRE["cert-rotation.state.completed"])


def test_a_rotation_by_hand_tidies_up_itself_and_ends_with_0(factory):
    device = factory.device
    device.request_file.unlink(missing_ok=True)
    done = device.run(
        "rotate",
        "--est-server",
        device.est_url,
        "--pkey-ids",
        "01,07",
        "--cert-ids",
        "03,09",
        "--rotation-id",
        "by-hand",
    )
    assert done.returncode == DONE, done.stderr
    assert factory.gateway.completed("by-hand")
    assert not (device.storage / "renew-client-cert/rotation.json").exists()


def shape(value):
    """Give a JSON value with every text, number and truth replaced by its type."""
    if isinstance(value, dict):
        return {key: shape(each) for key, each in value.items()}
    return [shape(each) for each in value] if isinstance(value, list) else type(value).__name__
