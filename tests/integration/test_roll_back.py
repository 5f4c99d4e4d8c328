"""The gateway refuses the new certificate after the switch: the roll-back survives any number of interruptions."""

import json

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from handler.crypto import ecies
from handler.exit_status import DONE, PENDING, REFUSED, SWITCHED
from tests import journal as journals
from tests.invariants import broken_invariants, secrets_in_journal
from tests.simulators.factory import running_factory

from .in_process import LIMITS, call
from .stopping import cannot_answer, new_certificate_is_refused, rotates_again

ID = "certs-rollback"
pytestmark = pytest.mark.requested(ID)
REFUSALS = ["alert", 200, 401, 403]

# Of the requests of a roll-back: those that were made before it began are left alone.
REQUESTS = {
    "files are fetched": ("GET", "/config-device", 5),
    "files are stored": ("PATCH", "/config", 1),
}
CUTS = {
    "500": {"status": 500},
    "dropped before the work": {"drop": "before"},
    "dropped after the work": {"drop": "after"},
    "reset": {"reset": True},
    "says nothing": {"hang": 1.0},
    "captive portal": {"status": 200, "headers": {"Content-Type": "text/html"}, "body": "<html>log in</html>"},
}
UNREACHABLE = CUTS | {
    "503": {"status": 503},
    "502": {"status": 502, "body": "bad gateway"},
    "429": {"status": 429},
    "answer lost to an error": {"status": 504, "work": True},
}


def journal(device):
    return journals.read(device.storage)


@pytest.mark.parametrize("how", REFUSALS)
def test_a_refused_certificate_goes_back_to_the_very_same_identity(factory, how):
    old = factory.device.current_identity()
    sota, modified = factory.device.sota(), factory.device.config_encrypted.stat().st_mtime_ns
    new_certificate_is_refused(factory, how)
    outcome = call(factory.device)
    assert outcome.status == REFUSED
    assert "rolled back, the device gateway refused the new certificate" in outcome.said
    assert factory.device.current_identity() == old
    assert factory.device.sota() == sota
    assert factory.device.config_encrypted.stat().st_mtime_ns == modified
    assert broken_invariants(factory, ID, completed=False) == []
    (end,) = factory.gateway.completed(ID)
    assert "rolled back" in end["event"]["details"]
    assert factory.gateway.delivered_with(end) == [old.public_key]
    assert journals.is_idle(factory.device.storage)
    rotates_again(factory)


@pytest.mark.parametrize("what", UNREACHABLE)
def test_a_gateway_that_cannot_be_reached_after_the_switch_is_no_refusal(files, what):
    old = files.device.current_identity()
    cannot_answer(files, **UNREACHABLE[what])
    outcome = call(files.device)
    assert outcome.status == SWITCHED
    assert outcome.said
    new = files.device.current_identity()
    assert new.public_key != old.public_key
    assert secrets_in_journal(files.device) == []
    files.gateway.faults.clear()
    assert call(files.device, "resume").status == DONE
    assert files.device.current_identity() == new
    assert broken_invariants(files, ID, completed=True) == []


@pytest.mark.parametrize("body", ['{"f": {"Value": 1}}', "[" * 978 + "]" * 978, '{"f":' * 70 + "1" + "}" * 70])
def test_json_that_cannot_be_read_as_the_files_is_no_refusal(files, body):
    """It may be the gateway's own, beyond a limit of this program."""
    files.gateway.faults.add("POST", "/events", times=None, announced=True, status=403)
    files.gateway.faults.add("GET", "/config-device", times=None, announced=True, status=200, body=body)
    outcome = call(files.device)
    assert outcome.status == SWITCHED
    assert "what answers to the new certificate is not the device gateway: " in outcome.said
    assert journal(files.device)["events"]
    files.gateway.faults.clear()
    assert call(files.device, "resume").status == DONE
    assert broken_invariants(files, ID, completed=True) == []


@pytest.mark.parametrize(
    "answer", [*({"status": each} for each in (400, 404, 405, 413)), {"huge": 64_000_000}], ids=str
)
def test_a_gateway_that_takes_the_certificate_but_not_the_events_is_no_refusal(files, answer):
    fault = files.gateway.faults.add("POST", "/events", times=None, **answer)
    outcome = call(files.device, limits=LIMITS._replace(read=10.0, total=30.0))
    assert outcome.status == SWITCHED
    assert fault.used
    new = files.device.current_identity()
    files.gateway.faults.clear()
    assert call(files.device).status == DONE
    assert files.device.current_identity() == new
    assert broken_invariants(files, ID, completed=True) == []


# Cut in the middle, then gone on with


@pytest.mark.parametrize("place", REQUESTS)
@pytest.mark.parametrize("what", CUTS)
def test_a_roll_back_that_is_cut_off_at_any_request_goes_on(files, place, what):
    goes_on_after(files, place, CUTS[what])


@pytest.mark.parametrize("place", REQUESTS)
def test_a_roll_back_in_a_token_that_is_cut_off_at_any_request_goes_on(tmp_path, place):
    with running_factory(tmp_path / "device", "token") as factory:
        factory.device.write_request(ID)
        goes_on_after(factory, place, CUTS["dropped after the work"])


def goes_on_after(factory, place, fault):
    new_certificate_is_refused(factory)
    method, path, skip = REQUESTS[place]
    added = factory.gateway.faults.add(method, path, skip=skip, times=None, **fault)
    outcome = call(factory.device)
    assert added.used
    assert outcome.status == SWITCHED  # fioconfig has to restart: sota.toml was changed at least once
    assert journal(factory.device)["rotation"]["rollback"]
    assert secrets_in_journal(factory.device) == []
    assert factory.device.current_identity().whole
    # The boot comes before there is a network: the files have to be readable.
    assert call(factory.device, "offline").status == DONE
    factory.device.plaintexts()
    # What was stored although the answer was lost is seen, and not stored again: nothing is left to fail.
    done = place == "files are stored" and added.does_work
    outcome = call(factory.device, "resume")
    if not done:
        assert outcome.status == PENDING
        factory.gateway.faults.clear()
        outcome = call(factory.device, "resume")
    factory.gateway.faults.clear()
    assert outcome.status == REFUSED
    assert "rolled back" in outcome.said
    assert broken_invariants(factory, ID, completed=False) == []
    assert call(factory.device, "resume").status == DONE
    rotates_again(factory)


def test_a_roll_back_whose_report_is_not_taken_reports_later(factory):
    new_certificate_is_refused(factory)
    factory.gateway.faults.add("GET", "/config-device", skip=5, times=None, status=500)
    assert call(factory.device).status == SWITCHED
    factory.gateway.faults.clear()
    factory.gateway.faults.add("POST", "/events", times=None, status=503)
    assert call(factory.device, "resume").status == REFUSED
    assert factory.gateway.completed(ID) == []
    assert journal(factory.device)["rotation"] is None
    factory.gateway.faults.clear()
    assert call(factory.device, "resume").status == DONE
    assert broken_invariants(factory, ID, completed=False) == []


def test_the_new_certificate_that_is_accepted_after_a_cut_in_the_roll_back_is_not_gone_back_to(factory):
    """Once something went back, all of it does: the device is never left between two identities."""
    new_certificate_is_refused(factory)
    factory.gateway.faults.add("PATCH", "/config", skip=1, times=None, status=500)
    assert call(factory.device).status == SWITCHED
    factory.gateway.faults.clear()
    factory.gateway.refuse_new_certificate = None
    assert call(factory.device, "resume").status == REFUSED
    assert broken_invariants(factory, ID, completed=False) == []


def test_a_new_rotation_waits_until_everything_is_back(factory):
    new_certificate_is_refused(factory)
    factory.gateway.faults.add("PATCH", "/config", skip=1, times=None, status=500)
    assert call(factory.device).status == SWITCHED
    factory.gateway.faults.clear()
    factory.gateway.refuse_new_certificate = None
    factory.device.write_request("certs-next")
    first = call(factory.device)
    assert first.status == REFUSED
    assert "rolled back" in first.said
    assert call(factory.device, "resume").status == DONE
    assert [each["event"]["success"] for each in factory.gateway.completed(ID)] == [False]
    assert broken_invariants(factory, "certs-next", completed=True) == []


def test_a_request_that_is_removed_during_a_roll_back_changes_nothing_of_it(factory):
    new_certificate_is_refused(factory)
    factory.gateway.faults.add("GET", "/config-device", skip=5, times=None, status=500)
    assert call(factory.device).status == SWITCHED
    factory.gateway.faults.clear()
    factory.device.request_file.unlink()
    assert call(factory.device, "withdraw").status == REFUSED
    assert broken_invariants(factory, ID, completed=False) == []


# Both refused


@pytest.mark.parametrize("status", [401, 403])
def test_a_gateway_that_refuses_both_certificates_leaves_the_device_whole_and_trying(factory, status):
    new_certificate_is_refused(factory)
    factory.gateway.faults.add("GET", "/config-device", skip=3, times=None, status=status)
    outcome = call(factory.device)
    assert outcome.status == SWITCHED
    assert "accepts neither the new certificate nor the old one" in outcome.said
    for _ in range(2):
        again = call(factory.device, "resume")
        assert again.status == PENDING
        assert "accepts neither the new certificate nor the old one" in again.said
        assert factory.device.current_identity().whole
        factory.device.plaintexts()
    factory.gateway.faults.clear()
    factory.gateway.refuse_new_certificate = None
    assert call(factory.device, "resume").status == DONE
    assert broken_invariants(factory, ID, completed=True) == []


def test_a_gateway_that_refused_both_and_takes_the_old_one_again_gets_it_back(factory):
    new_certificate_is_refused(factory)
    factory.gateway.faults.add("GET", "/config-device", skip=3, times=None, status=403)
    assert call(factory.device).status == SWITCHED
    factory.gateway.faults.clear()
    outcome = call(factory.device, "resume")
    assert outcome.status == REFUSED
    assert broken_invariants(factory, ID, completed=False) == []


# Half way back


@pytest.fixture
def second(factory):
    """A device whose key in use was made by a rotation, so that another one may remove it."""
    assert call(factory.device).status == SWITCHED
    assert call(factory.device).status == DONE
    factory.device.write_request("certs-second")
    return factory


def stopped_half_way_back(factory):
    """Leave sota.toml with the old names again, the files on the server not moved back."""
    new_certificate_is_refused(factory)
    factory.gateway.faults.add("PATCH", "/config", skip=1, times=None, status=500)
    assert call(factory.device).status == SWITCHED
    factory.gateway.faults.clear()


def test_the_old_certificate_that_is_refused_half_way_back_leaves_the_new_one_in_use(second):
    old = second.device.current_identity()
    stopped_half_way_back(second)
    assert second.device.current_identity() == old
    second.gateway.faults.add("GET", "/config-device", status=403)
    outcome = call(second.device, "resume")
    assert outcome.status == PENDING
    assert "cannot roll back" in outcome.said
    assert second.device.current_identity() != old
    second.device.plaintexts()
    second.gateway.refuse_new_certificate = None
    assert call(second.device, "resume").status == DONE
    assert broken_invariants(second, "certs-second", completed=True) == []


def test_files_that_were_moved_back_follow_the_new_certificate_that_is_taken_after_all(second):
    """The files were stored for the old key, their answer was lost, and then there was no way back."""
    new_certificate_is_refused(second)
    second.gateway.faults.add("PATCH", "/config", skip=1, times=None, status=500, work=True)
    assert call(second.device).status == SWITCHED
    second.gateway.faults.clear()
    second.gateway.faults.add("GET", "/config-device", times=1, status=403)
    assert call(second.device, "resume").status == PENDING
    second.gateway.refuse_new_certificate = None
    assert call(second.device, "resume").status == DONE
    assert broken_invariants(second, "certs-second", completed=True) == []


def test_a_completion_that_was_taken_and_then_refused_is_reported_under_its_one_id(second):
    """The answer to it was lost, the gateway refused the certificate once, and by then it had denied the old one."""
    cannot_answer(second, status=503)
    assert call(second.device).status == SWITCHED
    second.gateway.faults.clear()
    cannot_answer(second, asked=0, drop="after")
    assert call(second.device, "resume").status == PENDING
    second.gateway.faults.clear()
    second.gateway.faults.add("POST", "/events", times=1, status=403)
    second.gateway.faults.add("GET", "/config-device", times=1, status=403)
    second.gateway.faults.add("POST", "/events", times=None, status=503)
    second.gateway.faults.add("GET", "/config-device", skip=1, times=None, status=503)
    outcome = call(second.device, "resume")
    assert outcome.status == PENDING
    second.gateway.faults.clear()
    assert call(second.device, "resume").status == DONE
    assert broken_invariants(second, "certs-second", completed=True) == []


@pytest.mark.parametrize("moment", ["before the proof", "before tidying up"])
def test_a_configuration_that_was_put_back_from_a_backup_is_switched_again(second, moment):
    backup = second.device.sota_toml.read_bytes()
    if moment == "before the proof":
        cannot_answer(second, status=503)
    assert call(second.device).status == SWITCHED
    second.gateway.faults.clear()
    second.device.sota_toml.write_bytes(backup)
    assert call(second.device, "offline").status == DONE
    second.device.plaintexts()
    assert call(second.device, "resume").status == DONE
    assert broken_invariants(second, "certs-second", completed=True) == []


def test_a_boot_without_a_network_in_the_middle_of_a_roll_back_can_read_its_files(factory):
    """Killed before sota.toml went back; fioconfig, which had called, stored what it had fetched for the old key."""
    new_certificate_is_refused(factory)
    factory.gateway.faults.add("GET", "/config-device", skip=5, times=None, status=500)
    assert call(factory.device).status == SWITCHED
    factory.device.config_encrypted.write_text(json.dumps(factory.device.config))
    assert call(factory.device, "offline").status == DONE
    factory.device.plaintexts()
    factory.gateway.faults.clear()
    assert call(factory.device, "resume").status == REFUSED
    assert broken_invariants(factory, ID, completed=False) == []


def test_a_file_that_no_key_reads_does_not_stop_a_roll_back(factory):
    new_certificate_is_refused(factory)
    factory.gateway.faults.add("GET", "/config-device", skip=5, times=None, status=500)
    assert call(factory.device).status == SWITCHED
    factory.gateway.faults.clear()
    stray = ec.generate_private_key(ec.SECP256R1()).public_key()
    factory.gateway.config_device["stray"] = {"Value": ecies.encrypt(stray, b"x"), "Unencrypted": False}
    assert "rolled back" in call(factory.device, "resume").said
    del factory.gateway.config_device["stray"]
    assert broken_invariants(factory, ID, completed=False) == []


# As a process


def test_a_roll_back_is_said_on_one_line_without_a_traceback(files):
    new_certificate_is_refused(files)
    done = files.device.run()
    assert done.returncode == REFUSED
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("renew-client-cert: refused: rolled back, the device gateway")
    assert broken_invariants(files, ID, completed=False) == []
