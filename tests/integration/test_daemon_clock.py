"""A clock that is set while the daemon waits."""

from pathlib import Path

import pytest

from handler.exit_status import PENDING
from tests.invariants import broken_invariants

from .daemons import ID, SLOW, cut_off, ended, left_pending, running, systemd, waits, waits_for, works

__all__ = ["systemd"]  # a fixture
LOOKS_OFTEN = {"WATCHDOG_USEC": "6000000"}
"""For systemd's watchdog the daemon turns every 2 s, and looks at the clock each time, instead of every 10 s."""


class Clock:
    """The clock of a device, which is wrong until it is set (libfaketime reads a file)."""

    def __init__(self, folder, wrong):
        self._file = folder / "faketime"
        self._file.write_text(f"{wrong}\n")
        self.environment = {
            "LD_PRELOAD": str(next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def set(self):
        self._file.write_text("+0\n")


def finished_after_the_clock_was_set(factory, systemd, until, clock, *, is_known=True, **environment):
    """Have the daemon wait with a wrong clock, and set it."""
    with running(factory, systemd, *SLOW, **clock.environment, **environment) as daemon:
        until(lambda: waits(systemd))
        if is_known:
            assert waits_for(systemd) == ["waiting for network time"]
        clock.set()
        ended(daemon)
    assert broken_invariants(factory, ID, completed=True) == []


@pytest.mark.parametrize(
    "wrong",
    [
        "@1970-01-01 00:00:20",  # before the current certificate
        "-2d",  # before those of the servers: TLS says so, and no time from which on it works
        "-2h",  # before the issued one
        "+400d",  # set back, then
    ],
)
def test_a_clock_that_is_set_is_noticed_whatever_it_was_that_failed(files, systemd, until, tmp_path, wrong):
    clock = Clock(tmp_path, wrong)
    files.device.write_request(ID)
    assert files.device.run(environment=clock.environment).returncode == PENDING
    finished_after_the_clock_was_set(files, systemd, until, clock, is_known=wrong != "+400d", **LOOKS_OFTEN)


def test_a_clock_that_is_set_is_noticed_by_a_rotation_that_was_cut_off_before(files, systemd, until, tmp_path):
    cut_off(files, until)
    finished_after_the_clock_was_set(files, systemd, until, Clock(tmp_path, "@1970-01-01 00:00:20"))


def test_a_clock_that_is_set_does_not_make_it_come_back_before_a_server_asked_for(files, systemd, until, tmp_path):
    fault = left_pending(files)
    clock = Clock(tmp_path, "-2d")
    with running(files, systemd, *SLOW, **clock.environment, **LOOKS_OFTEN) as daemon:
        until(lambda: waits(systemd))
        clock.set()
        assert any("the clock was set by +172800 s" in line for line in daemon.stderr)
        daemon.terminate()
        ended(daemon)
    assert works(systemd) == 0
    assert fault.seen == 1
