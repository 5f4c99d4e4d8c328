"""The lock of a device. These tests need root, as the program itself does."""

import os
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager

import pytest

from handler.device.lock import RUN, device_lock, holder
from handler.errors import BusyError, RequestRefusedError
from tests.privileges import NOBODY, reachable_folder, unprivileged

HOLD = """
import sys
from pathlib import Path
from handler.device.lock import device_lock
with device_lock(Path(sys.argv[1]), 5):
    print("held", flush=True)
    sys.stdin.read()
"""
BLOCK = f"""
import fcntl, os, sys
os.setresuid({NOBODY}, {NOBODY}, {NOBODY})
for path in sys.argv[1:]:
    try:
        fcntl.flock(os.open(path, os.O_RDONLY), fcntl.LOCK_EX)
    except PermissionError:
        pass
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def held_by_another_process(*paths, program=HOLD):
    process = subprocess.Popen(
        [sys.executable, "-c", program, *map(str, paths)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout.readline() == b"held\n"
        yield process
    finally:
        process.communicate()


def locks():
    return set(RUN.iterdir()) if RUN.exists() else set()


def test_lock_leaves_no_file(tmp_path):
    before = locks()
    with device_lock(tmp_path, 0):
        assert list(tmp_path.iterdir()) == []
        for path in locks() - before:
            assert path.stat().st_mode & 0o777 == 0o600
    assert not any(path.name.endswith(f"-{tmp_path.stat().st_ino}") for path in locks())


def test_all_paths_to_a_folder_mean_one_lock(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    with device_lock(tmp_path / "folder", 0):
        with pytest.raises(BusyError), device_lock(tmp_path / "link", 0):
            pass
        with device_lock(tmp_path, 0):
            pass


def test_other_users_can_hold_up_nobody():
    with reachable_folder() as folder:
        with device_lock(folder, 0):
            paths = [folder, *locks()]
        with held_by_another_process(*paths, program=BLOCK), device_lock(folder, 0):
            pass


def test_folder_of_a_plain_user_can_be_locked_by_that_user_and_by_root():
    with reachable_folder() as folder:
        storage = folder / "storage"
        with unprivileged():
            storage.mkdir()
            with device_lock(storage, 0):
                assert list(storage.iterdir()) == []
        with device_lock(storage, 0), unprivileged(), pytest.raises(BusyError), device_lock(storage, 0):
            pass


def test_many_that_wait_get_it_one_after_the_other(tmp_path):
    inside, most = [], []

    def work():
        with device_lock(tmp_path, 30):
            inside.append(1)
            most.append(len(inside))
            inside.pop()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 8


def test_link_in_the_place_of_the_lock_is_not_followed(tmp_path):
    status, target = tmp_path.stat(), tmp_path / "target"
    RUN.mkdir(mode=0o700, exist_ok=True)
    path = RUN / f"{os.major(status.st_dev)}-{os.minor(status.st_dev)}-{status.st_ino}"
    path.symlink_to(target)
    try:
        with pytest.raises(OSError, match="symbolic links"), device_lock(tmp_path, 0):
            pass
        assert not target.exists()
    finally:
        path.unlink()


def test_lock_can_be_taken_again_after_its_release(tmp_path):
    for _ in range(2):
        with device_lock(tmp_path, 0):
            pass


def test_second_holder_is_told_who_holds_the_lock(tmp_path):
    with held_by_another_process(tmp_path) as process, pytest.raises(BusyError) as caught, device_lock(tmp_path, 0.05):
        pass
    assert f"process {process.pid} ({sys.executable}" in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_second_holder_waits_for_the_first(tmp_path):
    with ExitStack() as first:
        first.enter_context(device_lock(tmp_path, 0))
        timer = threading.Timer(0.15, first.close)
        timer.start()
        begin = time.monotonic()
        with device_lock(tmp_path, 10):
            assert 0.1 < time.monotonic() - begin < 5
        timer.join()


def test_lock_ends_with_its_process(tmp_path):
    with held_by_another_process(tmp_path) as process:
        process.kill()
        process.wait()
        with device_lock(tmp_path, 1):
            pass


def test_nobody_holds_what_is_free(tmp_path):
    assert holder(tmp_path) is None


def test_missing_storage_folder_is_refused(tmp_path):
    with (
        pytest.raises(RequestRefusedError, match=r"missing cannot be opened.*storage\.path"),
        device_lock(tmp_path / "missing", 0),
    ):
        pass


@pytest.mark.parametrize("folder_mode", [0o500, 0o000, 0o555])
def test_user_without_permission_is_told_to_be_root(folder_mode):
    with reachable_folder() as folder:
        folder.chmod(folder_mode)
        with unprivileged(), pytest.raises(RequestRefusedError, match="as root") as caught, device_lock(folder, 0):
            pass
        assert str(folder) in str(caught.value)
