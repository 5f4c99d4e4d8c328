"""What a rotation leaves of everything else, and what it costs: whole rotations by the real program."""

import json
import os
import threading
from email.utils import formatdate
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from handler.device.device import Device
from handler.device.keystore import IdentityNames
from handler.device.request import RotationRequest
from handler.device.services import Services
from handler.exit_status import DONE, PENDING, SWITCHED
from handler.journal.pending import read_pending
from handler.journal.rotation_state import RotationState
from handler.rotation.context import Context
from handler.rotation.fioconfig import release
from tests import softhsm
from tests.events import EVENTS
from tests.simulators.client import Client
from tests.simulators.device_config import FACTORY_FILES, PlainFile
from tests.simulators.factory import running_factory

from .in_process import LIMITS, Silent, call

OLD, NEW = IdentityNames("/old.key", "/old.pem"), IdentityNames("/new.key", "/new.pem")
WIRE = json.loads((Path(__file__).parents[1] / "data/wire.json").read_text())


def rotate(factory, rotation_id="certs-1", environment=None):
    factory.device.write_request(rotation_id)
    done = factory.device.run(environment=environment)
    assert done.returncode == SWITCHED, done.stderr
    return done


# The key and its certificate


@pytest.mark.parametrize("keys", ["file", "token"])
def test_the_new_certificate_names_the_same_device_in_every_way(tmp_path, keys):
    names = ["device-1.example", "192.0.2.7"]
    with running_factory(tmp_path / "device", keys, san=names) as factory:
        rotate(factory)
        old, new = factory.device.certificate, factory.device.current_identity().certificate
        assert new.subject.public_bytes() == old.subject.public_bytes()
        san = [each.extensions.get_extension_for_class(x509.SubjectAlternativeName).value for each in (old, new)]
        assert san[0] == san[1]
        assert new.serial_number != old.serial_number


def test_new_files_are_private_and_in_the_storage_folder_and_the_factory_provisioned_ones_stay(files):
    device = files.device
    provisioned = {name: (device.storage / name).read_bytes() for name in ("pkey.pem", "client.pem")}
    seen = set()
    for number in range(3):
        rotate(files, f"certs-{number}")
        names = device.current_identity()
        for path in (Path(names.key), Path(names.certificate_name)):
            assert path.parent == device.storage
            assert path.stat().st_mode & 0o777 == 0o600
            assert path not in seen
            seen.add(path)
    assert {name: (device.storage / name).read_bytes() for name in provisioned} == provisioned
    assert [path.name for path in device.private_key_files() if path.suffix != ".pem"] == []


def test_the_identity_that_was_in_use_stays_in_its_slots_until_the_next_rotation(token):
    device = token.device
    first = device.token_objects()
    rotate(token, "certs-1")
    second = device.token_objects()
    assert set(first) <= set(second)
    rotate(token, "certs-2")
    third = device.token_objects()
    in_use = [each for each in second if each.id in ("07", "09")]
    assert set(in_use) <= set(third)
    # Of a private key nothing can be read that would tell it from another one.
    assert {each.value for each in first if each.value}.isdisjoint(each.value for each in third)
    assert sorted((each.object_class, each.id, each.label) for each in third) == [
        ("CERTIFICATE", "03", "client"),
        ("CERTIFICATE", "09", "client"),
        ("PRIVATE_KEY", "01", "tls"),
        ("PRIVATE_KEY", "07", "tls"),
        ("PUBLIC_KEY", "01", "tls"),
        ("PUBLIC_KEY", "07", "tls"),
    ]


def test_what_other_software_keeps_in_the_token_is_left_alone(token):
    device = token.device
    softhsm.add_key_pair(device.token, 4, label="edgelock")
    softhsm.add_certificate(device.token, 5, device.certificate, label="cloud")
    softhsm.add_secret(device.token, 6, label="disk")
    strangers = {each for each in device.token_objects() if each.id in ("04", "05", "06")}
    rotate(token)
    assert strangers <= set(device.token_objects())


def test_the_request_may_be_written_in_any_layout(files):
    device = files.device
    lines = ["# by hand", "", " ESTSERVER = " + device.est_url, "ROTATIONID=certs-1\t", "ROTATIONID=certs-1", ""]
    device.request_file.write_bytes("\r\n".join(lines).encode())
    assert device.run().returncode == SWITCHED
    assert files.gateway.event_names("certs-1") == EVENTS


# The configuration of the device


def test_configuration_files_keep_everything_but_their_encryption(tmp_path):
    own = {**FACTORY_FILES, "own": PlainFile(b"mine", on_changed=["/usr/share/fioconfig/handlers/own"])}
    with running_factory(tmp_path / "device", "token", config_device=own) as factory:
        device, gateway = factory.device, factory.gateway
        before = {"here": device.encrypted_config(), "server": dict(gateway.config_device)}
        plaintexts = device.plaintexts()
        rotate(factory)
        after = {"here": device.encrypted_config(), "server": gateway.config_device}
        assert device.plaintexts() == plaintexts
        with device.private_key() as key:
            assert gateway.files_readable_with(key)["own"] == b"mine"
        for place, old in before.items():
            assert list(after[place]) == list(old)
            for name, entry in old.items():
                changed = bool(entry["Value"]) and not entry["Unencrypted"]
                assert (after[place][name]["Value"] != entry["Value"]) == changed
                assert without_value(after[place][name]) == without_value(entry), (place, name)


def without_value(entry):
    """Give the rest of an entry; the gateway's form does not tell an empty list of commands from none."""
    return {name: value for name, value in entry.items() if name != "Value" and value != []}


def test_sota_toml_changes_in_its_two_names_only(factory):
    path = factory.device.sota_toml
    path.chmod(0o604)
    path.write_text(path.read_text().replace("[uptane]", "# who polls\n[uptane] # often"))
    before = path.read_text().splitlines()
    rotate(factory)
    after = path.read_text().splitlines()
    assert len(after) == len(before)
    changed = [old.partition(" ")[0] for old, new in zip(before, after, strict=True) if old != new]
    names = ["tls_pkey_id", "tls_clientcert_id"] if factory.device.token else ["tls_pkey_path", "tls_clientcert_path"]
    assert changed == names
    assert path.stat().st_mode & 0o777 == 0o604


def test_fioconfigs_next_check_in_gets_the_change_that_came_with_the_rotation(files):
    """The stock handler moves the time of config.encrypted to now: its next check-in is answered with 304."""
    files.gateway.set_file("news", b"just set")
    rotate(files)
    client = Client(files.pki, certificate=files.device.current_identity().certificate)
    since = formatdate(files.device.config_encrypted.stat().st_mtime, usegmt=True)
    with files.device.private_key() as client.key:
        reply = client.ask(files.gateway_server, "GET", "/config", headers={"If-Modified-Since": since})
    assert reply.status == 200
    assert b'"news"' in reply.body


def test_a_device_without_files_of_its_own_sends_none(tmp_path):
    with running_factory(tmp_path / "device", "file", config_device=None) as factory:
        rotate(factory)
        assert ("PATCH", "/config") not in factory.gateway.calls()
        assert factory.gateway.event_names("certs-1") == EVENTS


# Events beside the rotation


def test_a_gateway_that_takes_no_events_delays_nothing_and_gets_them_later(files, until):
    device, gateway = files.device, files.gateway
    refusing = gateway.faults.add("POST", "/events", times=None, status=500)
    device.write_request("certs-1")
    first = device.current_identity().key
    with device.start() as process:
        # A call that waited until the events are taken would take 51 s to give up.
        until(lambda: device.sota()["import"]["tls_pkey_path"] != first)
        assert refusing.used
        assert gateway.events == []
        gateway.faults.clear()
        process.communicate(timeout=30)
    assert process.returncode == SWITCHED
    assert gateway.event_names("certs-1") == EVENTS
    (completed,) = gateway.completed("certs-1")
    assert set(gateway.delivered_with(completed)) == {device.current_identity().public_key}


def test_a_gateway_that_is_slow_with_events_does_not_hold_the_steps_up(files, until):
    device, gateway, free = files.device, files.gateway, threading.Event()
    gateway.faults.add("POST", "/events", hang=free)
    device.write_request("certs-1")
    with device.start() as process:
        # A call that waited for an answer would wait 30 s.
        until(lambda: ("PATCH", "/config") in gateway.calls())
        assert gateway.events == []
        free.set()
        process.communicate(timeout=30)
    assert process.returncode == SWITCHED
    assert gateway.event_names("certs-1") == EVENTS


def test_the_proof_stays_pending_until_a_gateway_takes_it(factory):
    device, gateway = factory.device, factory.gateway
    gateway.faults.add("*", "*", announced=True, times=None, status=500)
    device.write_request("certs-1")
    assert call(device).status == SWITCHED
    assert gateway.completed("certs-1") == []
    assert gateway.current != device.current_identity().public_key
    assert not (device.storage / "cert-rotation.state.completed").exists()
    gateway.faults.clear()
    done = device.run("resume")
    assert (done.returncode, done.stderr.count("pending")) == (DONE, 0)
    assert gateway.event_names("certs-1") == EVENTS
    assert gateway.current == device.current_identity().public_key
    assert (device.storage / "cert-rotation.state.completed").exists()


# The services that use the key


@pytest.fixture
def systemd(tmp_path):
    """Give services of a system on which everything runs; calls of its systemctl are written down."""
    log, program = tmp_path / "systemctl.log", tmp_path / "systemctl"
    log.touch()
    program.write_text(f'#!/bin/sh\necho "$*" >> "{log}"\n[ "$1" != show ] || echo active\n')
    program.chmod(0o755)
    return Services(tmp_path, str(program)), lambda: [
        line for line in log.read_text().splitlines() if not line.startswith("show")
    ]


def test_called_by_fioconfig_only_aktualizr_is_restarted(files, systemd):
    services, calls = systemd
    files.device.write_request("certs-1")
    assert call(files.device, services=services).status == SWITCHED
    assert calls() == ["reset-failed aktualizr-lite.service", "try-restart aktualizr-lite.service"]


def test_by_hand_fioconfig_is_stopped_before_and_started_again(files, systemd):
    services, calls = systemd
    files.device.write_request("certs-1")
    assert call(files.device, "rotate", services=services).status == DONE
    fioconfig = [line for line in calls() if "fioconfig" in line]
    # The path unit of meta-lmp first, or it would start fioconfig again at once.
    assert fioconfig[:2] == ["stop fioconfig.path", "stop fioconfig.service"]
    assert fioconfig[-1] == "start fioconfig.service"
    assert "try-restart aktualizr-lite.service" in calls()


def test_fioconfig_is_stopped_before_a_switch_in_a_later_call_too(files, systemd):
    services, calls = systemd
    files.device.write_request("certs-1")
    files.gateway.faults.add("PATCH", "/config", times=None, status=500)
    assert call(files.device, "rotate", services=services).status == PENDING
    files.gateway.faults.clear()
    before = len(calls())
    assert call(files.device, "resume", services=services).status == DONE
    later = calls()[before:]
    assert later.index("stop fioconfig.service") < later.index("try-restart aktualizr-lite.service")
    assert later[-1] == "start fioconfig.service"


def test_fioconfig_is_started_again_where_a_roll_back_cannot_end(files, systemd):
    services, calls = systemd
    files.device.write_request("certs-1")
    files.gateway.refuse_new_certificate = 403
    files.gateway.faults.add("PATCH", "/config", skip=1, times=None, status=500)
    for command in ("rotate", "resume"):
        before = len(calls())
        assert call(files.device, command, services=services).status == PENDING
        assert "stop fioconfig.service" in calls()[before:]
        assert calls()[-1] == "start fioconfig.service"


@pytest.mark.parametrize(("command", "old"), [("resume", 503), ("abort", 403)], ids=["again", "no way back"])
def test_fioconfig_is_stopped_before_a_switch_is_repeated(files, systemd, command, old):
    services, calls = systemd
    device, faults = files.device, files.gateway.faults
    device.write_request("certs-1")
    before = device.sota_toml.read_bytes()
    faults.add("POST", "/events", times=None, status=503)
    faults.add("GET", "/config-device", skip=2, times=None, status=old)
    assert call(device, "rotate", services=services).status == PENDING
    device.sota_toml.write_bytes(before)
    earlier = len(calls())
    call(device, command, services=services)
    assert calls()[earlier:][:2] == ["stop fioconfig.path", "stop fioconfig.service"]
    assert calls()[-1] == "start fioconfig.service"
    assert device.sota_toml.read_bytes() != before


def test_a_start_that_an_earlier_call_owes_is_not_waited_for_within_fioconfigs_own(files, systemd):
    """At boot fioconfig calls the handler from a unit after which its own is ordered."""
    services, calls = systemd
    paths = [Path(each) for each in files.device.environment()["SOTA_DIR"].split(",")]
    context = Context(Device(paths, files.device.storage), Silent(), services, LIMITS, by_fioconfig=True)
    state = RotationState(RotationRequest("certs-1", files.device.est_url, (), ()), OLD, NEW, fioconfig_stopped=True)
    context.record(state)
    release(context)
    assert calls()[-1] == "start --no-block fioconfig.service"
    assert context.rotation.fioconfig_stopped is False


def test_without_systemd_a_warning_says_what_to_do(files):
    done = rotate(files)
    booted = os.path.isdir("/run/systemd/system")  # noqa: PTH112 - as sd_booted(3) asks
    assert ("restart aktualizr-lite" in done.stderr) != booted


# One after another


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
    assert factory.device.run().returncode == DONE
    before, asked = factory.device.snapshot(), [*factory.est.requests, *factory.gateway.requests]
    done = factory.device.run()
    assert done.returncode == DONE
    assert "already complete" in done.stdout
    assert factory.device.snapshot() == before
    assert [*factory.est.requests, *factory.gateway.requests] == asked
    assert read_pending(factory.device.storage) is None
    if not factory.device.token:
        assert len(factory.device.private_key_files()) == 2


def test_the_completed_state_is_one_that_the_stock_handler_understands(factory):
    rotate(factory, "certs-1669058841")
    text = (factory.device.storage / "cert-rotation.state.completed").read_text()
    assert '"RotationId":"certs-1669058841",' in text
    assert list(json.loads(text)) == list(WIRE["cert-rotation.state.completed"])


# What a device may look like


def test_our_own_leftovers_in_the_unused_slot_are_replaced(token):
    device = token.device
    device.write_request("certs-1")
    softhsm.add_key_pair(device.token, 7)
    softhsm.add_key_pair(device.token, 7)
    softhsm.add_certificate(device.token, 9, device.certificate)
    assert device.run().returncode == SWITCHED
    kinds = (("CERTIFICATE", "03"), ("CERTIFICATE", "09"))
    pairs = [(kind, name) for kind in ("PRIVATE_KEY", "PUBLIC_KEY") for name in ("01", "07")]
    assert sorted((each.object_class, each.id) for each in device.token_objects()) == [*kinds, *pairs]


def test_an_id_in_use_written_with_one_digit_is_the_same_slot(token):
    device = token.device
    device.write_request("certs-1")
    device.sota_toml.write_text(device.sota_toml.read_text().replace('"01"', '"1"').replace('"03"', '"3"'))
    assert device.run().returncode == SWITCHED
    assert (device.sota()["p11"]["tls_pkey_id"], device.sota()["p11"]["tls_clientcert_id"]) == ("07", "09")


def test_a_p384_key_in_a_file_is_followed_by_a_p384_key(tmp_path):
    with running_factory(tmp_path / "device", "file", curve=ec.SECP384R1()) as factory:
        rotate(factory)
        with factory.device.private_key() as key:
            assert key.curve.name == "secp384r1"
        assert factory.device.plaintexts()


def test_an_empty_storage_or_no_encrypted_configuration_is_fine(files):
    files.device.write_request("certs-1")
    files.device.config_encrypted.unlink()
    assert files.device.run().returncode == SWITCHED
    assert not files.device.config_encrypted.exists()


def test_a_request_file_that_was_removed_means_nothing_to_do(files):
    files.device.request_file.unlink(missing_ok=True)
    before = files.device.snapshot()
    done = files.device.run()
    assert (done.returncode, files.device.snapshot()) == (DONE, before)
    assert "nothing to do" in done.stdout
