"""A rotation is given up: before the point of no return, and why not after it."""

import json
import re

import pytest

from handler.exit_status import DONE, PENDING, REFUSED, SWITCHED
from handler.journal.pending import read_pending
from tests.invariants import broken_files, broken_invariants
from tests.simulators.factory import running_factory

from .in_process import call
from .left_behind import ID, left_after
from .stopping import cannot_answer


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/simplereenroll"),
        ("PATCH", "/device"),
        ("GET", "/config-device"),
        ("PATCH", "/config"),
    ],
)
def test_a_rotation_is_given_up_before_the_point_of_no_return(factory, method, path):
    device = factory.device
    identity = device.current_identity()
    left_after(factory, method, path)
    done = device.run("abort")
    assert done.returncode == DONE, done.stderr
    assert "aborted; the old identity is in use" in done.stdout
    assert device.current_identity() == identity
    (end,) = factory.gateway.completed(ID)
    assert end["event"]["success"] is False
    assert "given up by hand" in end["event"]["details"]
    assert read_pending(device.storage) is None
    if device.token:
        assert sorted(each.id for each in device.token_objects()) == ["01", "01", "03"]
    else:
        assert len(device.private_key_files()) == 1
    # The same request runs again: giving up is not completing.
    assert device.run().returncode == SWITCHED
    assert device.run("resume").returncode == DONE
    assert device.current_identity().public_key == factory.gateway.current


def test_a_rotation_that_is_switched_but_not_proved_goes_back(factory):
    device = factory.device
    identity = device.current_identity()
    device.write_request(ID)
    fault = factory.gateway.faults.add(
        "*", "*", announced=True, times=None, status=503, headers={"Retry-After": "3000"}
    )
    assert device.run().returncode == SWITCHED
    assert fault.used
    assert device.current_identity() != identity
    factory.gateway.faults.clear()
    done = device.run("abort")
    assert done.returncode == DONE, done.stderr
    assert device.current_identity() == identity
    assert broken_invariants(factory, ID, completed=False) == []


def test_past_the_point_of_no_return_it_is_explained_why_not(factory):
    factory.device.write_request(ID)
    assert factory.device.run().returncode == SWITCHED  # tidying up is pending
    before = factory.device.snapshot()
    done = factory.device.run("abort")
    assert done.returncode == REFUSED
    assert "point of no return" in done.stderr
    assert "resume" in done.stderr
    assert factory.device.snapshot() == before


def test_a_rotation_whose_proof_was_taken_without_an_answer_cannot_be_given_up(factory):
    device = factory.device
    device.write_request(ID)
    cannot_answer(factory, drop="after")
    assert call(device).status == SWITCHED
    assert factory.gateway.current == device.current_identity().public_key
    factory.gateway.faults.clear()
    done = device.run("abort")
    assert done.returncode == REFUSED, done.stdout
    assert "past the point of no return: the device gateway refuses the old certificate" in done.stderr
    assert device.run("resume").returncode == DONE
    assert broken_invariants(factory, ID, completed=True) == []


def test_giving_up_is_not_forgotten_while_the_gateway_cannot_be_asked(factory):
    identity = factory.device.current_identity()
    left_after(factory, "PATCH", "/config")
    factory.device.request_file.unlink()
    factory.gateway.faults.add("GET", "/config-device", times=None, status=503, headers={"Retry-After": "3000"})
    done = factory.device.run("abort")
    assert done.returncode == PENDING
    assert "the abort is recorded: the rotation is given up as soon as possible" in done.stderr
    factory.gateway.faults.clear()
    assert "rolling back to the old identity (given up by hand)" in factory.device.run("status").stdout
    assert json.loads(factory.device.run("status", "--json").stdout)["pending"]["rollback"] == "given up by hand"
    assert "would be rolled back first" in factory.device.run("rotate", "--dry-run", "--est-server=https://e").stdout
    done = factory.device.run("resume")
    assert done.returncode == DONE, done.stderr
    assert "rolled back, given up by hand" in done.stderr
    assert factory.device.current_identity() == identity
    assert broken_files(factory) == []
    assert read_pending(factory.device.storage) is None
    assert [each["event"]["success"] for each in factory.gateway.completed(ID)] == [False]


def test_who_gives_up_is_told_that_the_request_is_still_there(files):
    left_after(files, "PATCH", "/device")
    done = files.device.run("abort")
    assert (done.returncode, f"{files.device.request_file} still requests rotation" in done.stdout) == (DONE, True)


@pytest.mark.parametrize("status", [403, 404])
def test_giving_up_what_nobody_was_told_of_asks_nobody(tmp_path, status):
    with running_factory(tmp_path / "device", "token") as factory:
        left_after(factory, "POST", "/simplereenroll")
        with factory.device.token.away():
            assert factory.device.run("abort").returncode == PENDING
        factory.gateway.faults.add("GET", "/config-device", times=None, status=status)
        assert factory.device.run("resume").returncode == DONE
        assert read_pending(factory.device.storage) is None


def test_giving_up_is_not_forgotten_while_the_token_is_away(tmp_path):
    with running_factory(tmp_path / "device", "token") as factory:
        identity = factory.device.current_identity()
        left_after(factory, "POST", "/simplereenroll")
        with factory.device.token.away():
            done = factory.device.run("abort")
            assert done.returncode == PENDING
            assert "the abort is recorded: the rotation is given up as soon as possible" in done.stderr
            assert read_pending(factory.device.storage).waiting.kind == "token"
        done = factory.device.run("resume")
        assert done.returncode == DONE, done.stderr
        assert "aborted as requested: given up by hand" in done.stderr
        assert factory.device.current_identity() == identity
        assert sorted(each.id for each in factory.device.token_objects()) == ["01", "01", "03"]


def test_without_anything_pending_there_is_nothing_to_give_up(files):
    before = files.device.snapshot()
    done = files.device.run("abort")
    assert (done.returncode, done.stdout) == (DONE, "nothing to do: no rotation is pending\n")
    assert files.device.snapshot() == before


# Events that the gateway does not take


def test_events_that_are_not_delivered_are_a_warning_and_leave_the_call_pending(factory):
    device = factory.device
    left_after(factory, "PATCH", "/device")
    factory.gateway.faults.add("POST", "/events", times=None, status=503, headers={"Retry-After": "3000"}, body="later")
    done = device.run("abort")
    waiting = read_pending(device.storage).undelivered
    assert waiting
    for command in ("resume", "abort"):
        assert done.returncode == PENDING, done.stdout
        line = done.stderr.splitlines()[-1]
        assert line.startswith(f"warning: not delivered yet: {waiting} event")
        assert ": POST /events: " in line
        assert "HTTP 503: later" in line
        assert line.endswith("; `renew-client-cert resume` continues it")
        done = device.run(command)
    assert device.run("resume", "--offline").returncode == DONE
    factory.gateway.faults.clear()
    done = device.run("resume")
    assert (done.returncode, done.stderr) == (DONE, "")
    assert re.fullmatch(rf"delivered: {waiting} events?\n", done.stdout)
    assert len(factory.gateway.completed(ID)) == 1
