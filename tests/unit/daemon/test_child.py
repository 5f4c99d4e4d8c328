"""The child process of the daemon: when it counts as hanging, and what happens then. Real processes, short limits."""

import math
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import replace

import pytest

from handler.daemon.child import Child, ChildLimits
from handler.servers.http import Limits

LIMITS = ChildLimits(quiet=0.5, total=60.0, killed=0.3)
BUSY = "while True: pass"
QUIET = "import time; time.sleep(60)"
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
PAUSE = threading.Event()


@contextmanager
def running(program, signature=lambda: None, limits=LIMITS, **arguments):
    child = Child([sys.executable, "-c", program], signature, limits, **arguments)
    try:
        yield child
    finally:
        child._process.kill()
        child._process.wait()


def looked_at(child, seconds):
    """Ask whether the child makes progress until `seconds` are over or it exits; return the answers."""
    end, answers = time.monotonic() + seconds, []
    while child.status is None and time.monotonic() < end:
        answers.append(child.made_progress())
        PAUSE.wait(0.05)
    return answers


def test_one_that_uses_the_processor_makes_progress():
    with running(BUSY) as child:
        answers = looked_at(child, 2.0)
        assert child.status is None
        assert sum(answers) > 10


def test_one_that_changes_the_journal_makes_progress():
    with running(QUIET, signature=time.monotonic) as child:
        assert all(looked_at(child, 1.5))
        assert child.status is None


def test_one_that_is_quiet_does_not_get_on_and_is_killed(caplog):
    with running(QUIET) as child:
        answers = looked_at(child, 10.0)
        assert child.status == -signal.SIGKILL
        assert False in answers
        assert "the rotation hangs" in caplog.text


def test_one_that_is_busy_for_ever_is_killed_as_well():
    with running(BUSY, limits=replace(LIMITS, total=1.0)) as child:
        looked_at(child, 10.0)
        assert child.status == -signal.SIGKILL


def test_one_that_cannot_be_killed_is_killed_once_and_soon_counts_as_lost(caplog):
    kills = []
    # As a process does not die that waits in the kernel for ever, which nobody can ask for.
    with running(DEAF, kill=kills.append) as child:
        answers = looked_at(child, 2.5)
        assert child.status is None
        assert len(kills) == 1
        assert not any(answers[-10:])
        assert caplog.text.count("the rotation hangs") == 1
        began = time.monotonic()
        child.stop()
        assert time.monotonic() - began < 2.0
        assert "leaving it to systemd" in caplog.text


def test_one_that_hears_no_sigterm_is_ended_within_two_seconds():
    with running(DEAF) as child:
        looked_at(child, 0.4)
        began = time.monotonic()
        child.stop()
        assert time.monotonic() - began < 2.0
        assert child.status in {-signal.SIGKILL, -signal.SIGTERM}


def test_it_waits_for_no_token_itself(monkeypatch):
    monkeypatch.setenv("HSM_WAIT", "600")
    program = "import os, sys; sys.exit(os.environ['HSM_WAIT'] != '0')"
    with running(program) as child:
        assert child._process.wait(10) == 0


@pytest.mark.parametrize("watchdog", [math.inf, 0.6, 30.0, 180.0, 3600.0])
def test_it_is_killed_before_the_watchdog_bites(watchdog):
    limits = ChildLimits.within(watchdog)
    if watchdog < math.inf:
        assert limits.quiet + limits.tick < watchdog
    assert limits.quiet <= 150
    assert limits.tick <= 10


def test_a_call_that_waits_for_a_server_is_not_taken_for_one_that_hangs():
    unit = subprocess.run(
        ["grep", "-h", "^WatchdogSec=", "systemd/renew-client-cert.service"], capture_output=True, text=True, check=True
    )
    limits = ChildLimits.within(float(unit.stdout.partition("=")[2]))
    assert limits.quiet > Limits().total + limits.tick
