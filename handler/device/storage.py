"""Files that are whole or absent after a cut at any moment, and what is asked of the folders that they lie in.

Order of an atomic write: unique temporary file in the same folder, write, mode and owner of what it replaces, fsync,
rename, fsync of the folder. A temporary file that a cut left behind is known by its name.
"""

import errno
import logging
import os
import re
import shutil
import stat
from pathlib import Path

from handler.errors import RequestRefusedError

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


def check_folder(folder: Path) -> None:
    """Raise RequestRefusedError for a storage folder that is not there, or cannot be written to."""
    try:
        os.close(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    except PermissionError as error:
        raise RequestRefusedError(f"{folder} cannot be opened: {error.strerror}; run this as root") from error
    except OSError as error:
        raise RequestRefusedError(
            f"the storage folder {folder} cannot be opened: {error.strerror}; expected an existing folder, "
            "look at storage.path of the configuration, or where STORAGE_DIR or --storage-dir name another"
        ) from error
    if not os.access(folder, os.W_OK | os.X_OK, effective_ids=True):
        raise RequestRefusedError(f"the storage folder {folder} cannot be written by user {os.geteuid()}: {why_not()}")


def why_not() -> str:
    """Say what to do about a folder that this process may not write to."""
    return "run this as root" if os.geteuid() else "its file system is mounted read-only; mount it writable"
