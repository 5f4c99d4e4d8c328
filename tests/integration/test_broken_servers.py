"""Server x request x misbehaviour: how a rotation ends, and that the device is whole however it does."""

import threading
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import product

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from handler.crypto import ecies
from handler.exit_status import DONE, PENDING, REFUSED, SWITCHED
from tests import journal as journals
from tests.invariants import broken_files, broken_invariants, secrets_in_journal
from tests.simulators.factory import running_factory

from .in_process import LIMITS, call

ID = "certs-fault"
pytestmark = pytest.mark.requested(ID)

REQUESTS = {
    "enrol": ("est", "POST", "/simplereenroll", 0),
    "trial": ("est", "GET", "/cacerts", 0),
    "look at files": ("gateway", "GET", "/config-device", 0),
    "announce": ("gateway", "PATCH", "/device", 0),
    "fetch files": ("gateway", "GET", "/config-device", 1),
    "store files": ("gateway", "PATCH", "/config", 0),
}
"""Server, method, path, and how many of these come before it."""
# An answer to the trial that the old certificate gets too proves the new one: what it asks for is only good to have.
STEPS = [name for name in REQUESTS if name != "trial"]
PASSING = {
    "500": {"status": 500},
    "502": {"status": 502, "body": "bad gateway"},
    "503, come back": {"status": 503, "headers": {"Retry-After": "0"}},
    "429": {"status": 429},
    "dropped before the work": {"drop": "before"},
    "dropped after the work": {"drop": "after"},
    "reset": {"reset": True},
    "answer cut short": {"cut": 0},
    "says nothing": {"hang": 1.0},
    "answer lost to an error": {"status": 504, "work": True},
}
PASSING_CASES = [each for each in product(REQUESTS, PASSING) if each[0] != "trial" or "status" not in PASSING[each[1]]]
FINAL = (400, 401, 403, 404, 405)
LOST = {
    "500": {"status": 500},
    "the answer is lost": {"drop": "after"},
    "reset after the work": {"drop": "after", "reset": True},
}
PORTAL = {"status": 200, "headers": {"Content-Type": "text/html; charset=utf-8"}, "body": "<html>Welcome</html>"}
EVENT_FAULTS = {
    **{str(status): {"status": status} for status in (400, 401, 403, 404, 405, 413, 429, 500, 503)},
    "lost": {"drop": "after"},
    "dropped": {"drop": "before"},
    "reset": {"reset": True},
    "portal": PORTAL,
    "silent": {"hang": 1.0},
    "cut short": {"cut": 0},
    "huge": {"huge": 64_000_000},
}


def spoil(factory, request_name, **fault):
    server, method, path, skip = REQUESTS[request_name]
    return getattr(factory, server).faults.add(method, path, skip=skip, **fault)


def heal(factory):
    factory.est.faults.clear()
    factory.gateway.faults.clear()


def pending(factory):
    """Call, and find the old identity in use and whole, and the way to go on in the journal, without a secret."""
    identity = factory.device.current_identity()
    outcome = call(factory.device)
    assert outcome.status == PENDING, outcome
    assert outcome.said
    assert factory.device.current_identity() == identity
    factory.device.plaintexts()
    assert secrets_in_journal(factory.device) == []
    return outcome


def goes_on(factory):
    heal(factory)
    assert call(factory.device, "resume").status == DONE
    asked = [each.body for each in factory.est.requests if each.method == "POST"]
    assert len(set(asked)) == 1  # the same key, the same CSR
    assert broken_invariants(factory, ID, completed=True) == []


def waits_until(factory):
    return journals.read(factory.device.storage)["waiting"]["until"]


# What passes, what lasts, what is final


# The head of an answer that is cut short says that a certificate was issued: test_est.py.
@pytest.mark.parametrize(
    ("request_name", "what"), [each for each in PASSING_CASES if each != ("enrol", "answer cut short")]
)
def test_what_passes_is_tried_again_within_the_call(files, request_name, what):
    spoil(files, request_name, times=2, **PASSING[what])
    outcome = call(files.device)
    assert (outcome.status, outcome.said) == (SWITCHED, "")
    assert call(files.device).status == DONE
    assert broken_invariants(files, ID, completed=True) == []


@pytest.mark.parametrize(("request_name", "what"), PASSING_CASES)
def test_what_lasts_leaves_a_rotation_pending_that_goes_on_later(files, request_name, what):
    spoil(files, request_name, times=None, **PASSING[what])
    identity = files.device.current_identity()
    outcome = call(files.device)
    assert outcome.status == PENDING
    assert outcome.said
    assert files.device.current_identity() == identity
    csrs = list(files.est.csrs)
    heal(files)
    assert call(files.device, "resume").status == DONE
    assert set(files.est.csrs) >= set(csrs)
    assert len(set(files.est.csrs)) == 1
    assert broken_invariants(files, ID, completed=True) == []


@pytest.mark.parametrize("request_name", STEPS)
@pytest.mark.parametrize("status", FINAL)
def test_a_final_answer_ends_the_rotation_with_the_servers_own_words(files, request_name, status):
    words = "because of \x1b[31m this " + "x" * 2000
    spoil(files, request_name, times=None, status=status, body=words)
    identity = files.device.current_identity()
    outcome = call(files.device)
    assert outcome.status == REFUSED
    assert "\x1b" not in outcome.said
    assert len(outcome.said) < 800
    assert files.device.current_identity() == identity
    names = files.gateway.event_names(ID)
    assert names[-1] == "CertRotationCompleted failed"
    assert names[-2].endswith(" failed")
    if not (request_name == "announce" and status in (404, 405)):
        assert "because of" in outcome.said
    heal(files)
    assert call(files.device).status == SWITCHED
    assert call(files.device).status == DONE
    assert broken_invariants(files, ID, completed=True) == []


@pytest.mark.parametrize(
    ("request_name", "what"), [each for each in product(REQUESTS, LOST) if each != ("trial", "500")]
)
def test_work_that_is_done_while_its_answer_is_lost_is_not_lost(factory, request_name, what):
    fault = spoil(factory, request_name, times=None, **LOST[what])
    pending(factory)
    assert fault.used > 1
    stored = list(factory.gateway.updates)
    goes_on(factory)
    if stored:  # seen by what is there, and not sent again
        assert factory.gateway.updates == stored


@pytest.mark.parametrize("request_name", STEPS)
def test_a_captive_portal_is_named_and_waited_out(files, request_name):
    spoil(files, request_name, times=None, **PORTAL)
    assert "captive portal" in pending(files).said
    goes_on(files)


@pytest.mark.parametrize("request_name", REQUESTS)
@pytest.mark.parametrize("times", [1, 3])
def test_a_captive_portal_that_goes_away_is_waited_for_within_the_call(files, request_name, times):
    spoil(files, request_name, times=times, **PORTAL)
    assert call(files.device).status == SWITCHED
    assert call(files.device).status == DONE
    assert broken_invariants(files, ID, completed=True) == []


# Connections


@pytest.mark.parametrize("server", ["est", "gateway"])
@pytest.mark.parametrize("fault", [{}, {"reset": True}, {"hang": 1.0}], ids=["closed", "reset", "silent"])
def test_a_server_that_ends_connections_before_tls_is_pending(files, server, fault):
    getattr(files, server).faults.add_connection(times=None, **fault)
    netloc = getattr(files, f"{server}_server").netloc
    assert netloc in pending(files).said
    goes_on(files)


@pytest.mark.parametrize("server", ["est", "gateway"])
def test_a_refused_connection_is_pending(files, server):
    running = getattr(files, f"{server}_server")
    running.stop()
    outcome = pending(files)
    assert running.netloc in outcome.said
    assert "refused" in outcome.said.lower()
    running.start()
    goes_on(files)


@pytest.mark.parametrize("server", ["est", "gateway"])
def test_the_certificate_in_use_that_a_server_refuses_by_an_alert_is_refused(factory, server):
    getattr(factory, server).faults.refuse_certificate(factory.device.certificate)
    identity = factory.device.current_identity()
    outcome = call(factory.device)
    assert outcome.status == REFUSED
    assert "certificate revoked" in outcome.said
    assert factory.device.current_identity() == identity
    assert len(factory.device.private_key_files()) == (0 if factory.device.token else 1)
    assert broken_files(factory) == []
    heal(factory)
    assert call(factory.device).status == SWITCHED
    assert call(factory.device).status == DONE
    assert broken_invariants(factory, ID, completed=True) == []


# EffectiveRequest to wait


@pytest.mark.parametrize("request_name", STEPS)
@pytest.mark.parametrize("form", ["seconds", "date"])
def test_a_server_that_asks_to_come_back_in_an_hour_is_not_asked_before(files, request_name, form):
    hour = datetime.now(UTC) + timedelta(hours=1)
    value = "3600" if form == "seconds" else format_datetime(hour, usegmt=True)
    fault = spoil(files, request_name, times=None, status=503, headers={"Retry-After": value})
    pending(files)
    assert fault.used == 1
    assert abs(datetime.fromisoformat(waits_until(files)) - hour) < timedelta(minutes=1)
    goes_on(files)


def test_an_enrolment_that_is_postponed_again_and_again_is_pending_with_its_time(factory):
    factory.est.postpone(7200)
    pending(factory)
    assert datetime.fromisoformat(waits_until(factory)) > datetime.now(UTC) + timedelta(minutes=119)
    goes_on(factory)


@pytest.mark.parametrize("value", ["", "soon", "-5", "9" * 400])
def test_an_absurd_time_to_wait_is_no_reason_to_stop_for_ever(files, value):
    spoil(files, "announce", times=None, status=503, headers={"Retry-After": value})
    pending(files)
    until = waits_until(files)
    assert until is None or datetime.fromisoformat(until) < datetime.now(UTC) + timedelta(hours=25)
    goes_on(files)


# A final answer after the gateway knows the next key


@pytest.mark.parametrize("request_name", ["fetch files", "store files"])
@pytest.mark.parametrize("status", [400, 403])
def test_a_final_answer_in_the_middle_keeps_the_new_key_until_a_person_looks(factory, request_name, status):
    spoil(factory, request_name, times=None, status=status, body="ask the operator\x07")
    identity = factory.device.current_identity()
    outcome = call(factory.device)
    assert outcome.status == REFUSED
    assert outcome.said.endswith(f"answered HTTP {status}: ask the operator")
    assert factory.device.current_identity() == identity
    assert broken_files(factory) == []
    (end,) = factory.gateway.completed(ID)
    assert end["event"]["success"] is False
    assert outcome.said in end["event"]["details"]
    heal(factory)
    csrs = list(factory.est.csrs)
    assert call(factory.device).status == SWITCHED
    assert call(factory.device).status == DONE
    assert factory.est.csrs == csrs
    assert broken_invariants(factory, ID, completed=True) == []


@pytest.mark.parametrize(
    "body", ["[]", '{"a": 1}', '{"a": {"Value": 5}}', "\x00" * 100, '{"a": {"Value": "AAAA"}}', ""]
)
def test_a_configuration_that_is_none_stops_the_rotation_before_the_switch(files, body):
    spoil(files, "fetch files", times=None, status=200, headers={"Content-Type": "application/json"}, body=body)
    identity = files.device.current_identity()
    outcome = call(files.device)
    assert outcome.status == REFUSED
    assert files.device.current_identity() == identity
    assert files.gateway.updates == []
    heal(files)
    assert call(files.device).status == SWITCHED
    assert call(files.device).status == DONE
    assert broken_invariants(files, ID, completed=True) == []


# What only the operators can mend, before and after the gateway is told


def stray():
    """Give a file that no key of the device reads, as the stock handler leaves them."""
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    return {"Value": ecies.encrypt(key, b"lost"), "Unencrypted": False}


def test_a_file_on_the_server_that_the_key_does_not_read_is_refused_before_the_gateway_is_told(factory):
    factory.gateway.config_device["stray"] = stray()
    identity = factory.device.current_identity()
    outcome = call(factory.device)
    assert outcome.status == REFUSED
    assert "'stray' cannot be decrypted" in outcome.said
    assert factory.gateway.next_pubkey is None
    assert factory.device.current_identity() == identity
    assert [each["event"]["success"] for each in factory.gateway.completed(ID)] == [False]
    del factory.gateway.config_device["stray"]
    assert call(factory.device).status == SWITCHED
    assert call(factory.device).status == DONE
    assert broken_invariants(factory, ID, completed=True) == []


def test_a_file_on_the_server_that_no_key_reads_later_is_left_as_it_is(factory):
    """Once the gateway knows the key, it cannot be repaired: the rotation continues with the others."""
    spoil(factory, "fetch files", times=None, status=500)
    pending(factory)
    factory.gateway.config_device["stray"] = lost = stray()
    heal(factory)
    assert call(factory.device, "resume").status == DONE
    assert factory.gateway.config_device.pop("stray")["Value"] == lost["Value"]
    assert broken_invariants(factory, ID, completed=True) == []


def test_an_old_certificate_that_is_revoked_in_the_middle_is_left_for_the_new_one(factory):
    spoil(factory, "fetch files", times=None, status=500)
    pending(factory)
    heal(factory)
    factory.gateway.faults.refuse_certificate(factory.device.certificate)
    assert call(factory.device, "resume").status == DONE
    names = factory.gateway.event_names(ID)
    assert "Update device specific configuration on server with new key failed" in names
    assert names[-1] == "CertRotationCompleted"
    assert broken_files(factory) == []
    assert factory.gateway.current == factory.device.current_identity().public_key
    heal(factory)
    factory.device.write_request("certs-next")
    assert call(factory.device).status == SWITCHED


def test_files_that_cannot_be_moved_after_the_switch_are_moved_later(factory):
    spoil(factory, "fetch files", times=None, status=500)
    pending(factory)
    heal(factory)
    factory.gateway.faults.refuse_certificate(factory.device.certificate)
    factory.gateway.faults.add("PATCH", "/config", times=None, status=403)
    outcome = call(factory.device, "resume")
    assert outcome.status == PENDING
    assert "are still encrypted to the old key" in outcome.said
    heal(factory)
    assert call(factory.device, "resume").status == DONE
    assert broken_files(factory) == []


# A gateway that does not rotate


@pytest.mark.parametrize("keys", ["file", "token"])
@pytest.mark.parametrize("status", [404, 405])
def test_a_gateway_without_rotation_is_found_out_before_anything_is_switched(tmp_path, keys, status):
    gateway = {"supports_rotation": False, "unknown_status": status}
    with running_factory(tmp_path / "device", keys, gateway=gateway) as factory:
        factory.device.write_request(ID)
        before = factory.device.current_identity()
        for _ in range(2):
            outcome = call(factory.device)
            assert outcome.status == REFUSED
            assert "does not support key rotation" in outcome.said
            assert factory.device.current_identity() == before
        assert sorted(each.id for each in factory.device.token_objects()) == (
            ["01", "01", "03"] if keys == "token" else []
        )
        assert broken_files(factory) == []


# Events


def test_an_event_that_hangs_does_not_hold_up_the_rotation(files):
    release = threading.Event()
    files.gateway.faults.add("POST", "/events", times=1, hang=release)
    seen = []

    def watch():
        for _ in range(400):
            if ("PATCH", "/config") in files.gateway.calls():
                seen.append(True)
                break
            threading.Event().wait(0.01)
        release.set()

    watcher = threading.Thread(target=watch)
    watcher.start()
    outcome = call(files.device, limits=LIMITS._replace(read=10.0, total=30.0))
    watcher.join()
    assert seen
    assert outcome.status == SWITCHED
    assert call(files.device).status == DONE
    assert broken_invariants(files, ID, completed=True) == []


@pytest.mark.parametrize("what", EVENT_FAULTS)
def test_events_that_are_not_taken_before_the_switch_stop_nothing(files, what):
    fault = files.gateway.faults.add("POST", "/events", times=1, **EVENT_FAULTS[what])
    assert call(files.device).status == SWITCHED
    assert fault.used == 1
    assert call(files.device).status == DONE
    assert broken_invariants(files, ID, completed=True) == []


@pytest.mark.parametrize("what", ["500", "403", "lost", "silent"])
def test_a_refusal_whose_events_are_not_taken_is_reported_later(files, what):
    files.est.faults.add("POST", "/simplereenroll", times=None, status=403, body="not you")
    files.gateway.faults.add("POST", "/events", times=None, **EVENT_FAULTS[what])
    assert call(files.device).status == REFUSED
    files.gateway.faults.clear()
    assert call(files.device, "resume").status == DONE
    assert files.gateway.event_names(ID) == [
        "CertRotationStarted",
        "Generate new certificate failed",
        "CertRotationCompleted failed",
    ]
    assert not journals.path(files.device.storage).exists()


# As a process


def test_a_wait_that_is_asked_for_beside_the_steps_is_heeded_after_a_refusal(files):
    files.gateway.faults.add("POST", "/events", times=None, status=503, headers={"Retry-After": "3000"})
    files.est.faults.add("POST", "/simplereenroll", status=403)
    assert call(files.device).status == REFUSED
    asked = files.gateway.calls()
    assert call(files.device, "unattended").status == PENDING
    assert files.gateway.calls() == asked


def test_a_final_answer_is_said_in_the_servers_words_without_a_traceback(files):
    spoil(
        files, "enrol", times=None, status=403, body="this device is \x1b[31mnot\x1b[0m enrolled here\r\n" + "x" * 5000
    )
    done = files.device.run()
    assert done.returncode == REFUSED
    assert "Traceback" not in done.stderr
    assert "\x1b" not in done.stderr
    assert "this device is [31mnot [0m enrolled here" in done.stderr
    assert len(done.stderr) < 2000


@pytest.mark.parametrize("body", ["stored", ""])
@pytest.mark.parametrize("works", [False, True])
def test_files_that_something_in_front_of_the_gateway_took_are_looked_for(files, works, body):
    """It says no JSON, as the gateway would."""
    fault = spoil(files, "store files", status=200, body=body, work=works)
    outcome = call(files.device)
    assert fault.used
    if not works:
        assert outcome.status == PENDING
        assert "does not have the files that it accepted" in outcome.said
        outcome = call(files.device)
    assert outcome.status == SWITCHED
    assert call(files.device).status == DONE
    assert broken_invariants(files, ID, completed=True) == []
