"""What proves that the gateway accepts the new certificate, and what happens to an identity that was rolled back."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from handler.exit_status import DONE, PENDING, REFUSED, SWITCHED
from handler.journal.pending import read_pending
from handler.journal.rotation_state import ANNOUNCED
from tests import journal as journals
from tests.invariants import broken_files, broken_invariants

from .in_process import call
from .stopping import cannot_answer, new_certificate_is_refused, rotates_again

ID = "certs-rollback"
pytestmark = pytest.mark.requested(ID)


# What is kept


def test_a_person_is_told_what_is_kept_and_what_becomes_of_it(factory):
    new_certificate_is_refused(factory)
    assert call(factory.device).status == REFUSED
    kept = journals.kept(factory.device.storage)["new"]["key"]
    assert f"[1/5] use key {kept} again" in factory.device.run("rotate", "--dry-run").stdout
    shown = " ".join(factory.device.run("status").stdout.split())
    assert "waits for a day to pass: until then, the device gateway may accept the new certificate after all" in shown
    done = factory.device.run("resume")
    assert (done.returncode, done.stdout) == (
        DONE,
        f"nothing to continue: rotation {ID} was rolled back; correct the cause, then rotate again\n",
    )


def test_a_key_that_was_rolled_back_is_used_again_by_the_next_rotation(factory):
    new_certificate_is_refused(factory)
    assert call(factory.device).status == REFUSED
    kept = journals.kept(factory.device.storage)
    rotates_again(factory)
    assert factory.device.current_identity().public_key == kept["public_key"]
    assert len(set(factory.est.csrs)) == 2
    assert journals.read(factory.device.storage) is None


def test_a_key_that_was_rolled_back_twice_is_still_the_one(factory):
    new_certificate_is_refused(factory)
    for number in range(3):
        factory.device.write_request(f"certs-{number}")
        assert call(factory.device).status == REFUSED
        keys = {journals.kept(factory.device.storage)["public_key"]}
    assert len(keys) == 1
    rotates_again(factory)


def test_a_rotation_that_is_refused_by_the_est_server_keeps_what_was_kept(factory):
    new_certificate_is_refused(factory)
    assert call(factory.device).status == REFUSED
    kept = journals.kept(factory.device.storage)
    factory.est.faults.add("POST", "/simplereenroll", times=1, status=403)
    factory.device.write_request("certs-refused")
    assert call(factory.device).status == REFUSED
    assert journals.kept(factory.device.storage) == kept
    assert broken_invariants(factory, ID, completed=False) == []
    rotates_again(factory)


def test_what_came_beside_a_certificate_is_not_kept_with_it(files):
    """2 MB of it twice, and the events that wait, are more than a journal may hold."""
    files.est.after = [files.pki.root.certificate]
    new_certificate_is_refused(files)
    assert call(files.device).status == REFUSED
    assert journals.kept(files.device.storage)["chain"] == []
    rotates_again(files)


def test_abort_destroys_what_is_kept(factory):
    new_certificate_is_refused(factory)
    assert call(factory.device).status == REFUSED
    assert call(factory.device, "abort").worked
    assert journals.read(factory.device.storage) is None
    assert broken_invariants(factory, ID, completed=False) == []
    assert not call(factory.device, "abort").worked
    rotates_again(factory)


# A gateway of two replicas that learn late


def rolled_back_by_the_replica_that_is_behind(factory):
    """The first sight reaches one replica, whose answer is lost; all else reaches the other one."""
    cannot_answer(factory, drop="after")
    assert call(factory.device).status == SWITCHED
    factory.gateway.faults.clear()
    assert factory.gateway.current == factory.device.current_identity().public_key
    with factory.gateway.behind():
        assert call(factory.device, "resume").status == REFUSED


def refused_for_a_minute(factory):
    """Have the journal say that the old certificate was refused a minute ago."""
    content = journals.read(factory.device.storage)
    past = (datetime.now(UTC) - timedelta(seconds=61)).isoformat(timespec="seconds")
    journals.write(factory.device.storage, {**content, "kept": {**content["kept"], "refused": past}})


@pytest.mark.parametrize("command", ["resume", "unattended", None, "rotate"])
def test_a_device_whose_new_certificate_was_taken_after_all_goes_on_with_it(factory, command):
    rolled_back_by_the_replica_that_is_behind(factory)
    taken = factory.gateway.current
    assert factory.device.current_identity().public_key != taken
    outcome = call(factory.device, command)
    assert outcome.status == PENDING
    assert "if it still does in a minute" in outcome.said
    assert call(factory.device, command).status == PENDING  # it is no minute yet
    refused_for_a_minute(factory)
    assert call(factory.device, command).status == (SWITCHED if command is None else DONE)
    assert factory.device.current_identity().public_key == taken
    assert call(factory.device, "resume").status == DONE
    assert [each["event"]["success"] for each in factory.gateway.completed(ID)][-2:] == [False, True]
    assert journals.read(factory.device.storage) is None
    assert broken_files(factory) == []
    assert not call(factory.device, "rotate").worked  # the ROTATIONID is complete


def test_a_device_goes_on_with_the_kept_key_after_another_rotation_got_no_further_than_its_certificate(factory):
    """The replica that is behind lets a rotation begin, and the other one refuses its second step."""
    rolled_back_by_the_replica_that_is_behind(factory)
    taken = factory.gateway.current
    with factory.gateway.behind():
        factory.gateway.faults.add("GET", "/config-device", skip=1, times=None, status=403)
        assert call(factory.device).status == REFUSED
    factory.gateway.faults.clear()
    kept = journals.kept(factory.device.storage)
    assert (kept["step"], kept["public_key"]) == (1, taken)
    assert call(factory.device, "resume").status == PENDING
    refused_for_a_minute(factory)
    assert call(factory.device, "resume").status == DONE
    assert factory.device.current_identity().public_key == taken
    assert broken_invariants(factory, ID, completed=True) == []


def test_a_request_that_waits_for_what_is_kept_is_not_forgotten(files):
    rolled_back_by_the_replica_that_is_behind(files)
    files.device.write_request("certs-next")
    assert call(files.device).status == PENDING
    refused_for_a_minute(files)
    assert call(files.device, "unattended").status == DONE
    assert [each["event"]["success"] for each in files.gateway.completed(ID)][-1:] == [True]
    assert broken_invariants(files, "certs-next", completed=True) == []


LATER = {"status": 503, "headers": {"Retry-After": "3000"}}


def test_a_gateway_that_asks_to_come_back_later_is_not_looked_at_before(files):
    new_certificate_is_refused(files)
    assert call(files.device).status == REFUSED
    files.gateway.faults.add("GET", "/config-device", times=None, **LATER)
    assert call(files.device, "unattended").status == DONE
    asked = files.gateway.calls()
    assert read_pending(files.device.storage).waiting.what == "the device gateway"
    assert call(files.device, "unattended").status == PENDING
    assert files.gateway.calls() == asked


def test_an_answer_to_the_old_certificate_that_asks_to_come_back_later_is_heeded(files):
    files.gateway.faults.add("*", "*", times=None, announced=True, status=403)
    files.gateway.faults.add("GET", "/config-device", skip=2, times=None, **LATER)
    assert call(files.device).status == SWITCHED
    asked = files.gateway.calls()
    assert call(files.device, "unattended").status == PENDING
    assert files.gateway.calls() == asked


def test_an_old_certificate_that_is_still_taken_is_looked_at_for_a_day_and_no_longer(files):
    new_certificate_is_refused(files)
    assert call(files.device).status == REFUSED
    assert read_pending(files.device.storage).due
    assert call(files.device, "unattended").status == DONE
    assert journals.read(files.device.storage)["waiting"]["attempts"] == 1
    assert files.gateway.calls()[-1] == ("GET", "/config-device")
    content = journals.read(files.device.storage)
    past = (datetime.now(UTC) - timedelta(hours=25)).isoformat(timespec="seconds")
    journals.write(files.device.storage, {**content, "kept": {**content["kept"], "since": past}})
    assert not read_pending(files.device.storage).due


# A server in front of the gateway, and connections that break


PAGE = "<html>The SSL certificate error</html>"


@pytest.mark.parametrize(
    ("status", "body"),
    [*((each, PAGE) for each in (400, 404, 421, 451, 495, 496, 200)), (200, "OK"), (200, "{")],
)
def test_what_a_server_in_front_says_to_the_new_certificate_is_no_proof(factory, status, body):
    """It does not trust the new one, and answers in the place of the gateway."""
    factory.gateway.faults.add("*", "*", times=None, announced=True, status=status, body=body)
    old = factory.device.current_identity()
    outcome = call(factory.device)
    factory.gateway.faults.clear()
    assert outcome.status == REFUSED, outcome
    assert factory.device.current_identity() == old
    assert broken_invariants(factory, ID, completed=False) == []
    rotates_again(factory)


def test_a_gateway_that_takes_no_events_at_all_is_proved_by_its_files(factory):
    """Events are off for this device: 403 to both certificates."""
    factory.gateway.faults.add("POST", "/events", times=None, status=403)
    assert call(factory.device).status == SWITCHED
    assert call(factory.device, "resume").status == DONE
    assert len(factory.est.csrs) == 1
    assert journals.read(factory.device.storage)["events"]
    assert not read_pending(factory.device.storage).due  # no daemon offers them for ever
    factory.gateway.faults.clear()
    assert call(factory.device).status == DONE
    assert broken_invariants(factory, ID, completed=True) == []


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 200, "body": "<html>blocked</html>"},
        {"status": 429, "headers": {"Retry-After": "3000"}},
        {"status": 503},
        {"status": 200, "body": "ok"},
        {"hang": 1.0},
    ],
    ids=str,
)
def test_what_stands_before_the_events_alone_does_not_keep_the_files_from_proving(files, fault):
    files.gateway.faults.add("POST", "/events", times=None, announced=True, **fault)
    assert call(files.device).status == SWITCHED
    assert journals.read(files.device.storage)["rotation"]["step"] == ANNOUNCED
    files.gateway.faults.clear()
    assert call(files.device, "resume").status == DONE
    assert len(files.est.csrs) == 1
    assert broken_invariants(files, ID, completed=True) == []  # and what it has swallowed is reported


@pytest.mark.parametrize("status", [500, 501, 503, 505])
def test_an_error_of_the_server_is_no_refusal_of_the_new_certificate(files, status):
    files.gateway.faults.add("*", "*", times=None, announced=True, status=status)
    assert call(files.device).status == SWITCHED
    files.gateway.faults.clear()
    assert call(files.device, "resume").status == DONE
    assert broken_invariants(files, ID, completed=True) == []


def test_without_a_network_the_proof_is_left_for_later_at_once(files, caplog):
    """As at boot, where fioconfig has other files to extract."""
    cannot_answer(files, status=503)
    assert call(files.device).status == SWITCHED
    files.gateway.faults.clear()
    text = files.device.sota_toml.read_text()
    files.device.sota_toml.write_text(text.replace('server = "https://127.0.0.1', 'server = "https://gateway.invalid'))
    caplog.set_level("INFO")
    outcome = call(files.device)
    assert (outcome.status, "cannot be resolved" in outcome.said) == (PENDING, True)
    assert "retrying in" not in caplog.text
    files.device.sota_toml.write_text(text)
    assert call(files.device, "resume").status == DONE
    assert broken_invariants(files, ID, completed=True) == []


@pytest.mark.parametrize("how", [{"drop": "before"}, {"reset": True}], ids=str)
def test_connections_that_break_on_the_new_certificate_alone_mean_that_it_is_refused(factory, how):
    factory.gateway.faults.add("*", "*", times=None, announced=True, **how)
    old = factory.device.current_identity()
    outcome = call(factory.device)
    assert outcome.status == REFUSED, outcome
    assert factory.device.current_identity() == old
    factory.gateway.faults.clear()
    rotates_again(factory)


def seen(device):
    """Give what status and check say of a roll-back: its JSON, whether as warnings, and the metric."""
    status = json.loads(device.run("status", "--json").stdout)
    check = json.loads(device.run("check", "--json").stdout)
    findings = [each["text"] for each in status["findings"] if each["code"] == "rolled-back"]
    warned = [each["text"] for each in check["results"] if each["topic"] == "rotation" and each["level"] == "warning"]
    metric = "renew_client_cert_rolled_back 1\n" in device.run("status", "--prometheus").stdout
    return status["rolled_back"], {*findings, *warned}, metric


def test_the_aftermath_of_a_roll_back_is_seen_until_a_rotation_succeeds(factory):
    device = factory.device
    new_certificate_is_refused(factory)
    assert call(device).status == REFUSED
    kept = journals.read(device.storage)["kept"]["rotation"]["new"]
    rolled_back, (text,), metric = seen(device)
    assert metric
    assert (rolled_back["rotation_id"], rolled_back["kept"]) == (ID, kept)
    assert "the device gateway may reject configuration changes" in text
    assert kept["key"] in text
    assert text in " ".join(device.run("status").stdout.split())
    device.write_request("certs-refused", estserver="http://a")
    assert device.run().returncode == REFUSED
    assert seen(device)[0] == rolled_back
    assert call(device, "abort").status == DONE  # nothing is kept any more, but the gateway expects the key still
    assert seen(device)[0] == {**rolled_back, "kept": None}
    rotates_again(factory)
    assert seen(device) == (None, set(), False)
