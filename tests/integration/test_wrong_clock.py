"""A clock that is wrong: the program runs under libfaketime, the servers have the right time."""

from pathlib import Path

import pytest

from handler.exit_status import DONE, PENDING, SWITCHED
from tests.invariants import broken_invariants
from tests.simulators.factory import running_factory

from .in_process import call

ID = "certs-clock"
(FAKETIME,) = map(str, Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))


@pytest.mark.parametrize(
    ("keys", "clock", "words"),
    [
        ("token", "1970-01-01 00:00:20", "the clock shows 1970-01-01"),
        ("file", "-60d", "the clock shows "),  # before the current certificate began
        ("token", "-2d", "not yet valid"),  # before the servers' certificates began
        ("file", "-2h", "the clock of this device is wrong"),  # before the issued certificate begins
        ("token", "-10m", "the clock of this device is wrong"),
        ("file", "+400d", "expired"),
    ],
)
def test_a_wrong_clock_is_named_and_the_rotation_waits(tmp_path, keys, clock, words):
    with running_factory(tmp_path / "device", keys) as factory:
        device = factory.device
        device.write_request(ID)
        identity = device.current_identity()
        done = device.run(environment={"FAKETIME": clock, "LD_PRELOAD": FAKETIME})
        assert done.returncode == PENDING, done.stderr
        assert words in done.stderr
        assert "clock" in done.stderr
        assert device.current_identity() == identity
        assert factory.gateway.next_pubkey is None
        assert call(device, "resume").status == DONE
        assert broken_invariants(factory, ID, completed=True) == []


def test_a_clock_that_is_set_back_after_the_certificate_was_issued_is_waited_for(tmp_path):
    with running_factory(tmp_path / "device", "file") as factory:
        device = factory.device
        device.write_request(ID)
        factory.est.faults.add("GET", "/cacerts", times=None, drop="before")
        assert call(device).status == PENDING
        factory.est.faults.clear()
        csrs = list(factory.est.csrs)
        done = device.run("resume", environment={"FAKETIME": "-2h", "LD_PRELOAD": FAKETIME})
        assert done.returncode == PENDING
        assert "but the issued certificate is valid from" in done.stderr
        assert device.run("resume").returncode == DONE
        assert factory.est.csrs == csrs
        assert broken_invariants(factory, ID, completed=True) == []


def test_a_clock_that_is_a_minute_behind_is_good_enough(tmp_path):
    with running_factory(tmp_path / "device", "file") as factory:
        factory.device.write_request(ID)
        done = factory.device.run(environment={"FAKETIME": "-60s", "LD_PRELOAD": FAKETIME})
        assert done.returncode == SWITCHED, done.stderr
        assert call(factory.device).status == DONE
        assert broken_invariants(factory, ID, completed=True) == []
