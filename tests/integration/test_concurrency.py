"""The handler, `resume` and a person at once: whoever comes in the middle waits, and there is one rotation.

ROUNDS in the environment: how many rotations are tried so, half of them with each kind of key.
"""

import os
import subprocess

import pytest

from handler.exit_status import DONE, PENDING, SWITCHED
from tests.invariants import broken_invariants
from tests.simulators.factory import running_factory

from .in_process import call

ROUNDS = int(os.environ.get("ROUNDS", "6"))
REQUESTS = [
    ("est", "POST", "/simplereenroll"),
    ("gateway", "PATCH", "/device"),
    ("gateway", "GET", "/config-device"),  # looked at beside the enrolment
    ("gateway", "PATCH", "/config"),
    None,  # all at once
]


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
