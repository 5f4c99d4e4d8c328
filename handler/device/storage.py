"""Files that are whole or absent after a cut at any moment, and the lock that lets one rotation run at a time.

Order of an atomic write: unique temporary file in the same folder, write, mode and owner of what it replaces, fsync,
rename, fsync of the folder. A temporary file that a cut left behind is known by its name.
"""

import contextlib
import errno
import fcntl
import logging
import os
import re
import shutil
import stat
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from handler.errors import BusyError, RequestRefusedError

log = logging.getLogger(__name__)

FOLDER = "renew-client-cert"
"""This program's own folder in the storage folder."""
POLL_SECONDS = 0.1
MAX_COMMAND = 200
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{16}\.renew-client-cert\.tmp")


def atomic_write(path: Path, data: bytes, *, mode: int | None = None, mtime_ns: int | None = None) -> None:
    """Replace `path` by `data` as a whole, durably. A symlink stays one: the file that it names is replaced.

    The file gets `mode`, else the mode of what it replaces, else 0600; the owner of what it replaces; and the
    modification time `mtime_ns` (nanoseconds since 1970) where given. On failure OSError is raised, which names `path`,
    and no temporary file is left.
    """
    path = Path(os.path.realpath(path))
    temporary = path.with_name(f".{path.name}.{os.urandom(8).hex()}.renew-client-cert.tmp")
    try:
        _write_durably(path, temporary, data, mode, mtime_ns)
    except OSError as error:  # of a descriptor it names no file, else the temporary one, which nobody knows
        raise OSError(error.errno, error.strerror, str(path)) from error


def _write_durably(path: Path, temporary: Path, data: bytes, mode: int | None, mtime_ns: int | None) -> None:
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            _take_after(path, descriptor, mode)
            if mtime_ns is not None:
                os.utime(descriptor, ns=(mtime_ns, mtime_ns))
            os.fsync(descriptor)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def put_in_place(path: Path, prepared: Path, *, mtime_ns: int) -> None:
    """Replace `path` by the file `prepared` as a whole, durably: like atomic_write, but a full disk does not matter.

    `prepared` lies on the same file system, or is copied; it is gone afterwards. Raises OSError that names `path`.
    """
    path = Path(os.path.realpath(path))
    try:
        descriptor = os.open(prepared, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _take_after(path, descriptor, None)
            os.utime(descriptor, ns=(mtime_ns, mtime_ns))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        prepared.replace(path)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise OSError(error.errno, error.strerror, str(path)) from error
        atomic_write(path, prepared.read_bytes(), mtime_ns=mtime_ns)
        remove(prepared)
        return
    sync_folder(path.parent)
    sync_folder(prepared.parent)


def is_mount_point(path: Path) -> bool:
    """Tell whether something is mounted at that very file, a symlink followed: nothing can replace it (EBUSY).

    proc_pid_mountinfo(5): a bind mount of the same file system is not seen otherwise. False where /proc is not there.
    """
    try:
        lines = Path("/proc/self/mountinfo").read_bytes().splitlines()
    except OSError:
        return False
    points = (re.sub(rb"\\([0-7]{3})", lambda octal: bytes([int(octal[1], 8)]), line.split()[4]) for line in lines)
    return os.fsencode(os.path.realpath(path)) in points


def is_same_file(first: str, second: str) -> bool:
    """Tell whether two paths lead to one file, or are the same path where there is none."""
    try:
        return first == second or Path(first).samefile(second)
    except OSError:
        return False


def remove_whatever(path: Path) -> None:
    """Remove what is there, a folder too, durably. Raises OSError."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
        sync_folder(path.parent)
    else:
        remove(path)


def remove(path: Path) -> None:
    """Remove the file if it is there, durably. Raises OSError."""
    try:
        path.unlink()
    except FileNotFoundError:
        return
    sync_folder(path.parent)


def make_folder(path: Path) -> None:
    """Make the folder, for its owner only, if it is not there, durably. Raises OSError."""
    if not path.is_dir():
        path.mkdir(mode=0o700)
        sync_folder(path.parent)


def remove_leftovers(folder: Path) -> list[Path]:
    """Remove temporary files that an earlier atomic write left in `folder`, and name them.

    Only while nobody else writes there: the caller holds the lock. Raises OSError.
    """
    if not folder.is_dir():
        return []
    leftovers = [path for path in folder.iterdir() if _TEMPORARY.fullmatch(path.name)]
    for path in leftovers:
        path.unlink(missing_ok=True)
    return leftovers


def _take_after(path: Path, descriptor: int, mode: int | None) -> None:
    """Give the open file the owner and mode of what stands at `path`; `mode` comes first."""
    try:
        replaced = path.stat()
    except FileNotFoundError:
        os.fchmod(descriptor, 0o600 if mode is None else mode)
        return
    own = os.fstat(descriptor)
    if (own.st_uid, own.st_gid) != (replaced.st_uid, replaced.st_gid):
        os.fchown(descriptor, replaced.st_uid, replaced.st_gid)
    os.fchmod(descriptor, stat.S_IMODE(replaced.st_mode) if mode is None else mode)


def sync_folder(folder: Path) -> None:
    """Make the names in the folder durable. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class DeviceLock:
    """One rotation at a time on a device: flock(2) on the storage folder itself.

    The lock needs no file, so that a refused request leaves the folder as it was, and it ends with its process. Use:
    `with DeviceLock(folder).acquire(60.0): ...`
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._descriptor: int | None = None

    def acquire(self, timeout: float) -> Self:
        """Take the lock, waiting up to `timeout` seconds for whoever holds it.

        Raises BusyError, which says who that is, and RequestRefusedError where the folder is missing or not writable.
        """
        if self._descriptor is not None:
            return self
        descriptor = _open_folder(self._folder)
        end = time.monotonic() + timeout
        pause = threading.Event()
        told = False
        try:
            while not _try_lock(descriptor):
                remaining = end - time.monotonic()
                if remaining <= 0:
                    raise BusyError(
                        f"{holder(os.fstat(descriptor))} holds the lock on {self._folder}: waited {timeout:.0f} s for "
                        "it; one rotation runs at a time, try again when that one is done"
                    )
                if not told:
                    log.info("%s holds the lock on %s: waiting", holder(os.fstat(descriptor)), self._folder)
                    told = True
                pause.wait(min(POLL_SECONDS, remaining))
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        return self

    def release(self) -> None:
        """Let go of the lock. Can be run again."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()


def holder(folder: os.stat_result) -> str:
    """Say which process holds the flock on the folder, with its command line, as far as /proc tells (proc_locks(5))."""
    inode = f"{os.major(folder.st_dev):02x}:{os.minor(folder.st_dev):02x}:{folder.st_ino}"
    with contextlib.suppress(OSError):
        for line in Path("/proc/locks").read_text("ascii").splitlines():
            # "1: FLOCK  ADVISORY  WRITE 1234 08:01:123456 0 EOF"; whoever waits has "->" before FLOCK
            fields = line.split()
            if fields[1] == "FLOCK" and fields[5] == inode and int(fields[4]) > 0:
                return f"process {fields[4]}{_command(fields[4])}"
    return "another process"


def _command(pid: str) -> str:
    try:
        raw = Path("/proc", pid, "cmdline").read_bytes()
    except OSError:  # it has ended, or /proc hides it
        return ""
    words = re.sub(r"[^ -~]", " ", raw.decode("ascii", "replace")).strip()
    return f" ({words[:MAX_COMMAND]})" if words else ""


def _open_folder(folder: Path) -> int:
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError as error:
        raise RequestRefusedError(f"{folder} cannot be opened: {error.strerror}; run this as root") from error
    except OSError as error:
        raise RequestRefusedError(
            f"the storage folder {folder} cannot be opened: {error.strerror}; expected an existing folder, "
            "look at storage.path of the configuration, or where STORAGE_DIR or --storage-dir name another"
        ) from error
    if not os.access(folder, os.W_OK | os.X_OK, effective_ids=True):
        os.close(descriptor)
        raise RequestRefusedError(f"the storage folder {folder} cannot be written by user {os.geteuid()}: {why_not()}")
    return descriptor


def why_not() -> str:
    """Say what to do about a folder that this process may not write to."""
    return "run this as root" if os.geteuid() else "its file system is mounted read-only; mount it writable"


def check_folder(folder: Path) -> None:
    """Raise RequestRefusedError for a storage folder that is not there, or cannot be written to."""
    os.close(_open_folder(folder))


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno == errno.EWOULDBLOCK:
            return False
        raise
    return True
