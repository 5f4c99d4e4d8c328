"""Waiting for a token: what ends the wait, with the kernel's events (umockdev) and without."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from hsm.devices import SUBSYSTEMS
from hsm.errors import ModuleError, PinError, TokenAbsentError
from hsm.presence import wait_for_token
from hsm.token import Token
from tests.softhsm import MODULE, SO_PIN, make_token, remove_token, softhsm_environment

REPOSITORY = Path(__file__).parents[3]
(_PRELOAD,) = (str(path) for path in Path("/usr/lib").glob("*/libumockdev-preload.so.0"))
PIN = "87654321"
_INIT = ["softhsm2-util", "--init-token", "--free", "--pin", PIN, "--so-pin", SO_PIN, "--label"]

# Waits for a token that another thread makes, and looks again after an hour or an event: `action` in `subsystem`.
_WAITER = """
import ctypes, logging, subprocess, sys, threading
from hsm.presence import wait_for_token
from hsm.token import Token

module, label, pin, subsystem, action, seconds, *command = sys.argv[1:]
umockdev = ctypes.CDLL("libumockdev.so.0")
umockdev.umockdev_testbed_new.restype = ctypes.c_void_p
testbed = ctypes.c_void_p(umockdev.umockdev_testbed_new())
path = b"/devices/token0"
description = b"P: %s\\nE: SUBSYSTEM=%s\\n" % (path, subsystem.encode())
assert umockdev.umockdev_testbed_add_from_string(testbed, description, None)
there = threading.Event()
# The second look comes after the listening began: from then on only an event, or the end, has it look again.
looks = threading.Semaphore(0)
log = logging.getLogger("hsm.presence")
log.setLevel(logging.DEBUG)
log.addFilter(lambda record: record.msg.startswith("Not yet") and looks.release())

def appear():
    looks.acquire()
    looks.acquire()
    subprocess.run(command, check=True, capture_output=True)
    while not there.wait(0.05):
        umockdev.umockdev_testbed_uevent(testbed, b"/sys" + path, action.encode())

token = Token(module, label, pin)
thread = threading.Thread(target=appear, daemon=True)
thread.start()
try:
    wait_for_token(token, float(seconds), look_every=3600.0)
finally:
    there.set()
    thread.join()
token.close()
"""


def wait_with_events(label, subsystem, action="add", seconds=30.0):
    command = [sys.executable, "-c", _WAITER, MODULE, label, PIN, subsystem, action, str(seconds), *_INIT, label]
    environment = os.environ | softhsm_environment() | {"LD_PRELOAD": _PRELOAD, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("subsystem", SUBSYSTEMS)
def test_a_device_that_appears_has_the_token_looked_at(subsystem):
    started = time.monotonic()
    done = wait_with_events(f"late-{subsystem}", subsystem)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - started < 15


@pytest.mark.parametrize(("subsystem", "action"), [("tpm", "remove"), ("tpm", "change"), ("block", "add")])
def test_another_event_is_no_reason_to_look(subsystem, action):
    started = time.monotonic()
    done = wait_with_events(f"other-{subsystem}-{action}", subsystem, action, seconds=2.0)
    # Found by the last look, when the time is over.
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - started >= 2


def test_a_token_that_is_initialised_late_is_found_without_any_event():
    label = "initialised-late"
    environment = os.environ | softhsm_environment()
    token = Token(MODULE, label, PIN)
    making = threading.Timer(
        0.5, subprocess.run, [[*_INIT, label]], {"check": True, "capture_output": True, "env": environment}
    )
    making.start()
    try:
        wait_for_token(token, 30, look_every=0.1)
    finally:
        making.join()
        token.close()


def test_without_a_wait_an_absent_token_is_an_error_at_once_and_no_udev_is_loaded():
    program = (
        "import sys\nfrom hsm.errors import TokenAbsentError\nfrom hsm.presence import wait_for_token\n"
        f"from hsm.token import Token\ntry:\n    wait_for_token(Token({MODULE!r}, 'absent', '1'), 0)\n"
        "except TokenAbsentError:\n    sys.exit('pyudev' in sys.modules)\nsys.exit(2)\n"
    )
    environment = os.environ | softhsm_environment()
    assert subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, env=environment, check=False).returncode == 0


def test_a_wait_that_is_over_says_that_the_token_is_absent():
    started = time.monotonic()
    with pytest.raises(TokenAbsentError, match="no token with the label 'never'"):
        wait_for_token(Token(MODULE, "never", PIN), 0.5, look_every=0.1)
    assert 0.5 <= time.monotonic() - started < 5


def test_a_wrong_pin_ends_the_wait_at_once():
    made = make_token()
    started = time.monotonic()
    with pytest.raises(PinError):
        wait_for_token(Token(made.module, made.label, "00000000"), 60)
    assert time.monotonic() - started < 5
    remove_token(made)


def test_a_missing_module_ends_the_wait_at_once():
    with pytest.raises(ModuleError):
        wait_for_token(Token("/nowhere/libckteec.so", "aktualizr", PIN), 60)
