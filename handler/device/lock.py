"""The lock that lets one rotation run at a time on a device: flock(2) on a file that only root can open.

/run/renew-client-cert/MAJOR-MINOR-INODE is named after the storage folder, so that every path to it means one lock. The
file exists while the lock is held or waited for. A plain user's storage folder (a demo) is locked itself.
"""

import contextlib
import errno
import fcntl
import logging
import os
import re
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from handler.errors import BusyError, RequestRefusedError

from .storage import check_folder

log = logging.getLogger(__name__)

RUN = Path("/run/renew-client-cert")
"""Owned by root, 0700. Units name it as RuntimeDirectory=: /run is read-only for them otherwise."""
POLL_SECONDS = 0.1
MAX_COMMAND = 200


@contextlib.contextmanager
def device_lock(folder: Path, timeout: float) -> Iterator[None]:
    """Hold the lock on the device with that storage folder, after waiting `timeout` seconds at most.

    It ends with its process. Raises BusyError naming the holder, RequestRefusedError if the folder is missing or not
    writable or the lock cannot be opened, OSError.
    """
    check_folder(folder)
    path, end = _path(folder), time.monotonic() + timeout
    while True:
        descriptor = _opened(path)
        try:
            _wait_for(descriptor, folder, timeout, end)
            if not os.fstat(descriptor).st_nlink:  # the previous holder has removed the file
                continue
            try:
                yield
            finally:
                if path.parent == RUN:
                    with contextlib.suppress(OSError):
                        path.unlink()
            return
        finally:
            os.close(descriptor)


def holder(folder: Path) -> str | None:
    """Return which process holds the lock on a storage folder, from proc_locks(5); None if none does."""
    with contextlib.suppress(OSError):
        status = _path(folder).stat()
        inode = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
        for line in Path("/proc/locks").read_text("ascii").splitlines():
            # "1: FLOCK  ADVISORY  WRITE 1234 08:01:123456 0 EOF"; a waiting process has "->" before FLOCK
            fields = line.split()
            if fields[1] == "FLOCK" and fields[5] == inode and int(fields[4]) > 0:
                return f"process {fields[4]}{_command(fields[4])}"
    return None


def _command(pid: str) -> str:
    try:
        raw = Path("/proc", pid, "cmdline").read_bytes()
    except OSError:  # it has ended, or /proc hides it
        return ""
    words = re.sub(r"[^ -~]", " ", raw.decode("ascii", "replace")).strip()
    return f" ({words[:MAX_COMMAND]})" if words else ""


def _path(folder: Path) -> Path:
    """Return the path to lock for a storage folder. Raises OSError."""
    status = folder.stat()
    if status.st_uid:
        return folder
    return RUN / f"{os.major(status.st_dev)}-{os.minor(status.st_dev)}-{status.st_ino}"


def _wait_for(descriptor: int, folder: Path, timeout: float, end: float) -> None:
    """Lock the open file before `end`, on the monotonic clock. Raises BusyError."""
    told = False
    while True:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        remaining = end - time.monotonic()
        who = holder(folder) or "another process"
        if remaining <= 0:
            raise BusyError(
                f"{who} holds the lock on {folder}: waited {timeout:.0f} s for it; try again when that rotation is done"
            )
        if not told:
            log.info("%s holds the lock on %s: waiting", who, folder)
            told = True
        time.sleep(min(POLL_SECONDS, remaining))


def _opened(path: Path) -> int:
    """Open the file, or the folder of a plain user. Raises RequestRefusedError, OSError."""
    if path.parent != RUN:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        RUN.mkdir(mode=0o700, exist_ok=True)
        status = RUN.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid or status.st_mode & 0o022:
            raise RequestRefusedError(f"{RUN} can be written by users other than root: expected its folder, or nothing")
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno not in {errno.EACCES, errno.EPERM, errno.EROFS}:
            raise
        raise RequestRefusedError(
            f"the lock {path} cannot be taken: {error.strerror}; run this as root, in a unit with "
            f"RuntimeDirectory={RUN.name}"
        ) from error
