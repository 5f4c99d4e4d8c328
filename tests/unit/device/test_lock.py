"""The lock of a device."""

import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest

from handler.device.storage import DeviceLock, holder
from handler.errors import BusyError, RequestRefusedError
from tests.privileges import reachable_folder, unprivileged

HOLD = """
import fcntl, os, sys
descriptor = os.open(sys.argv[1], os.O_RDONLY)
fcntl.flock(descriptor, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def held_by_another_process(folder):
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout.readline() == b"held\n"
        yield process
    finally:
        process.communicate()


def test_lock_leaves_no_file(tmp_path):
    with DeviceLock(tmp_path).acquire(0):
        assert list(tmp_path.iterdir()) == []


def test_lock_can_be_taken_again_after_its_release(tmp_path):
    for _ in range(2):
        with DeviceLock(tmp_path).acquire(0) as lock:
            assert lock.acquire(0) is lock
        lock.release()


def test_second_holder_is_told_who_holds_the_lock(tmp_path):
    with held_by_another_process(tmp_path) as process, pytest.raises(BusyError) as caught:
        DeviceLock(tmp_path).acquire(0.05)
    assert f"process {process.pid} ({sys.executable}" in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_second_holder_waits_for_the_first(tmp_path):
    first = DeviceLock(tmp_path).acquire(0)
    timer = threading.Timer(0.15, first.release)
    timer.start()
    begin = time.monotonic()
    with DeviceLock(tmp_path).acquire(10):
        assert 0.1 < time.monotonic() - begin < 5
    timer.join()


def test_lock_ends_with_its_process(tmp_path):
    with held_by_another_process(tmp_path) as process:
        process.kill()
        process.wait()
        DeviceLock(tmp_path).acquire(1).release()


def test_unknown_holder_is_another_process(tmp_path):
    assert holder(tmp_path.stat()) == "another process"


def test_missing_storage_folder_is_refused(tmp_path):
    with pytest.raises(RequestRefusedError, match=r"missing cannot be opened.*storage\.path"):
        DeviceLock(tmp_path / "missing").acquire(0)


@pytest.mark.parametrize("folder_mode", [0o500, 0o000, 0o555])
def test_user_without_permission_is_told_to_be_root(folder_mode):
    with reachable_folder() as folder:
        folder.chmod(folder_mode)
        with unprivileged(), pytest.raises(RequestRefusedError, match="as root") as caught:
            DeviceLock(folder).acquire(0)
        assert str(folder) in str(caught.value)
