"""The handler, `resume` and a person at once: a call in the middle waits, and there is one rotation.

ROUNDS in the environment: how many rotations are tried so, half of them with each kind of key.
"""

import os
import subprocess
import threading
from pathlib import Path

import pytest

from handler.device.lock import RUN, device_lock
from handler.errors import BusyError, is_final
from handler.exit_status import DONE, PENDING, SWITCHED
from tests.invariants import broken_invariants
from tests.simulators.device import REPOSITORY
from tests.simulators.factory import running_factory
from tests.terminal import make_terminal, read_all

from .in_process import call
from .left_behind import left_after

ROUNDS = int(os.environ.get("ROUNDS", "6"))
REQUESTS = [
    ("est", "POST", "/simplereenroll"),
    ("gateway", "PATCH", "/device"),
    ("gateway", "GET", "/config-device"),  # looked at beside the enrolment
    ("gateway", "PATCH", "/config"),
    None,  # all at once
]
ID = "certs-concurrency"


@pytest.mark.timeout(60 + 15 * ROUNDS)
@pytest.mark.parametrize("keys", ["file", "token"])
def test_the_handler_resume_and_a_person_at_once_make_one_rotation(tmp_path, until, keys):
    with running_factory(tmp_path / "device", keys) as factory:
        device = factory.device
        for number in range((ROUNDS + 1) // 2):
            rotation_id = f"certs-{number}"
            device.write_request(rotation_id)
            enrolled = len(factory.est.csrs)
            processes = [device.start()]
            moment = REQUESTS[number % len(REQUESTS)]
            if moment is not None:
                server, method, path = moment
                fault = getattr(factory, server).faults.add(method, path, delay=0.2)
                until(lambda fault=fault: fault.used)
            processes += [device.start("resume"), device.start("rotate"), device.start()]
            said = [ended(process) for process in processes]
            statuses = [process.returncode for process in processes]
            assert set(statuses) <= {DONE, PENDING, SWITCHED}, said
            assert call(device, "resume").status == DONE
            assert len(factory.est.csrs) - enrolled == 1
            assert [each["event"]["success"] for each in factory.gateway.completed(rotation_id)] == [True]
            assert broken_invariants(factory, rotation_id, completed=True) == []


def ended(process: subprocess.Popen[str]) -> str:
    """Wait for a program, and give what it said as an error."""
    with process:
        _, errors = process.communicate(timeout=90)
    return errors


# One at a time


def test_a_second_call_waits_and_then_finds_the_work_done(files, until):
    device, go_on = files.device, threading.Event()
    files.gateway.faults.add("PATCH", "/device", hang=go_on)
    device.write_request("certs-1")
    with device.start() as first:
        until(lambda: ("PATCH", "/device") in files.gateway.calls())
        with device.start() as second:
            until(lambda: has_open(second.pid, RUN))
            with pytest.raises(BusyError) as caught, device_lock(device.storage, 0.1):
                pass
            assert f"process {first.pid} " in str(caught.value)
            assert "-m handler" in str(caught.value)
            # As the command line ends such a call: not final is pending, 75.
            assert not is_final(caught.value)
            assert second.poll() is None
            go_on.set()
            first.communicate(timeout=30)
            second.communicate(timeout=30)
    assert (first.returncode, second.returncode) == (SWITCHED, DONE)
    assert len(files.est.csrs) == 1


@pytest.mark.parametrize("command", ["resume", "rotate"])
def test_a_request_that_came_while_another_call_held_the_lock_is_not_lost(files, until, command):
    """fioconfig calls once: its call gives up after a minute, or ends as fioconfig is stopped for the switch."""
    device, go_on = files.device, threading.Event()
    left_after(files, "PATCH", "/device")
    stuck = files.gateway.faults.add("PATCH", "/device", hang=go_on)
    with device.start(command) as holder:
        until(lambda: stuck.used)
        device.write_request("certs-later")
        go_on.set()
        _, said = holder.communicate(timeout=30)
    assert "rotation certs-later was requested meanwhile" in said
    assert call(device, "unattended").status == DONE
    assert broken_invariants(files, "certs-later", completed=True) == []


def has_open(pid, folder):
    """Tell whether the process has a file in that folder open, as it has while it asks for the lock."""
    try:
        return any(each.readlink().parent == folder for each in Path(f"/proc/{pid}/fd").iterdir())
    except FileNotFoundError:  # closed while we looked
        return False


def test_who_waits_for_another_rotation_says_for_whom_on_a_terminal(files, until):
    go_on, device = threading.Event(), files.device
    files.gateway.faults.add("PATCH", "/device", hang=go_on)
    device.write_request(ID)
    with device.start("rotate") as first:
        until(lambda: ("PATCH", "/device") in files.gateway.calls())
        ours, theirs = make_terminal(500)
        with subprocess.Popen(
            device.command("resume"), stdout=theirs, stderr=theirs, env=device.environment(), cwd=REPOSITORY
        ) as second:
            os.close(theirs)
            words = os.read(ours, 4096).decode()
            assert words.startswith(f"info: process {first.pid} (")
            assert words.endswith(": waiting\r\n")
            go_on.set()
            assert "nothing to do: no rotation is pending" in read_all(ours)
        assert second.returncode == DONE
        first.communicate(timeout=30)
