"""Files that are whole or absent after a cut at any moment, and the checks of their folders.

An atomic write: unique temporary file in the same folder, write, mode and owner of what it replaces, fsync, rename,
fsync of the folder. A leftover temporary file is recognised by its name.
"""

import contextlib
import errno
import os
import re
import shutil
import stat
import struct
from pathlib import Path

from handler.errors import RequestRefusedError

FOLDER = "renew-client-cert"
"""This program's folder in the storage folder."""
MAX_BYTES = 8 * 1024 * 1024  # of a file whose reader has no limit of its own
_ACL = "system.posix_acl_access"
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{16}\.renew-client-cert\.tmp")


class NotRegularError(OSError):
    """A FIFO, a folder, a device, a socket or a link where a file was expected."""


def atomic_write(path: Path, data: bytes, *, mode: int | None = None, mtime_ns: int | None = None) -> None:
    """Replace `path` by `data` as a whole, durably. Raises OSError naming `path`; no temporary file is left.

    With `mode` the file is this program's own and keeps nothing of what it replaces, even a link. Without, it belongs
    to others: a symlink stays, the file that it names is replaced and its attributes are kept (`_take_after`; a new
    file gets 0600). `mtime_ns`: the modification time to set (nanoseconds since 1970).
    """
    path = path if mode is not None else Path(os.path.realpath(path))
    temporary = path.with_name(f".{path.name}.{os.urandom(8).hex()}.renew-client-cert.tmp")
    try:
        _write_durably(path, temporary, data, mode, mtime_ns)
    except OSError as error:  # it names no file, or the temporary one, which means nothing to a reader
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
    """Replace `path` by the file `prepared` as a whole, durably, like atomic_write but without disk space.

    A file `prepared` on another file system is copied. It is gone afterwards. Raises OSError naming `path`.
    """
    path = Path(os.path.realpath(path))
    try:
        with prepared.open("rb") as file:
            _take_after(path, file.fileno(), None)
            os.utime(file.fileno(), ns=(mtime_ns, mtime_ns))
            os.fsync(file.fileno())
        prepared.replace(path)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise OSError(error.errno, error.strerror, str(path)) from error
        atomic_write(path, read_regular(prepared, -1), mtime_ns=mtime_ns)
        remove(prepared)
        return
    sync_folder(path.parent)
    sync_folder(prepared.parent)


def why_irreplaceable(path: Path) -> str | None:
    """Return why no file with the same owner can replace the file (a symlink followed); None if one can. OSError."""
    target = Path(os.path.realpath(path))
    if str(target) in dict(_mounts()):
        return f"{path} is a mount point by itself and cannot be replaced as a whole: mount its folder instead"
    for each, mode in ((target, os.W_OK), (target.parent, os.W_OK | os.X_OK)):
        if each.exists() and not os.access(each, mode, effective_ids=True):  # immutable, for root
            return f"{each} cannot be written: {why_not()}"
    with contextlib.suppress(FileNotFoundError):
        owner = path.stat()
        own = owner.st_uid == os.geteuid() and owner.st_gid in {os.getegid(), *os.getgroups()}
        if not own and not _may_chown():
            whose = f"{path} belongs to user {owner.st_uid} and group {owner.st_gid}"
            hint = "run this as root" if os.geteuid() else "chown it to 0:0, or permit that (docs/installation.md)"
            return f"{whose}, and this process cannot give a file to them: {hint}"
    return None


def _may_chown() -> bool:
    """Read whether CAP_CHOWN is effective (proc_pid_status(5)); a sandbox may take it from root."""
    found = re.search(rb"CapEff:\s*(\w+)", Path("/proc/self/status").read_bytes())
    return found is not None and bool(int(found[1], 16) & 1)


def _mounts() -> list[tuple[str, str]]:
    """Read mount points and file systems' types: proc_pid_mountinfo(5), which alone shows a bind mount of the same."""
    try:
        lines = Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape").split("\n")
    except OSError:
        return []
    parts = [(before.split(), after.split()) for before, _, after in (line.partition(" - ") for line in lines) if after]
    return [(re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), left[4]), right[0]) for left, right in parts]


def is_same_file(first: str, second: str) -> bool:
    """Return whether two paths lead to one file, or are the same path if there is none."""
    with contextlib.suppress(OSError):
        return first == second or Path(first).samefile(second)
    return False


def remove_whatever(path: Path) -> None:
    """Remove a file, link or folder durably. Raises OSError."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
        sync_folder(path.parent)
    else:
        remove(path)


def remove(path: Path) -> None:
    """Remove the file if it is there, durably. Raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
        sync_folder(path.parent)


def make_folder(path: Path) -> None:
    """Make the folder durably, for its owner only, unless it exists. Raises OSError."""
    if not path.is_dir():
        path.mkdir(mode=0o700)
        sync_folder(path.parent)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files that an interrupted write left in `folder`; hold the lock. Raises OSError."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if _TEMPORARY.fullmatch(path.name) and not path.is_dir():
            path.unlink(missing_ok=True)


def _take_after(path: Path, descriptor: int, mode: int | None) -> None:
    """Give the open file `mode`, or owner, mode, ACL, user attributes and SELinux label of the file at `path`.

    Of the last three, what cannot be kept is dropped, and nobody gains access: with an ACL, the mode of the group is
    its mask (acl(5)). security.ima, evm and capability are never kept: they describe the old content.
    """
    replaced = None
    if mode is None:
        with contextlib.suppress(FileNotFoundError):
            replaced = path.stat()
    if replaced is None:
        _set_acl(descriptor, None)
        os.fchmod(descriptor, 0o600 if mode is None else mode)
        return
    own = os.fstat(descriptor)
    if (own.st_uid, own.st_gid) != (replaced.st_uid, replaced.st_gid):
        os.fchown(descriptor, replaced.st_uid, replaced.st_gid)
    attributes = _attributes(path)
    acl = attributes.pop(_ACL, None)
    if not _set_acl(descriptor, acl):
        mode = stat.S_IMODE(replaced.st_mode)
        os.fchmod(descriptor, mode if acl is None else mode & ~0o070 | _group_of(acl) << 3)
    for name, value in attributes.items():
        with contextlib.suppress(OSError):
            os.setxattr(descriptor, name, value)


def _attributes(path: Path) -> dict[str, bytes]:
    """Read the extended attributes that a replacement keeps; none if the file system has none."""
    found = {}
    with contextlib.suppress(OSError):
        for name in os.listxattr(path):
            if name in {_ACL, "security.selinux"} or name.startswith("user."):
                with contextlib.suppress(OSError):
                    found[name] = os.getxattr(path, name)
    return found


def _set_acl(descriptor: int, acl: bytes | None) -> bool:
    """Set the open file's ACL, or remove one inherited from its folder; return whether one was set."""
    with contextlib.suppress(OSError):
        if acl is not None:
            os.setxattr(descriptor, _ACL, acl)
            return True
        os.removexattr(descriptor, _ACL)
    return False


def _group_of(acl: bytes) -> int:
    """Return the permissions of the owning group: its entry within the mask (linux/posix_acl_xattr.h)."""
    entries: dict[int, int] = {tag: bits for tag, bits, _ in struct.iter_unpack("<HHI", acl[4:])}
    return entries.get(0x04, 0) & entries.get(0x10, 7) & 7


def sync_folder(folder: Path) -> None:
    """Make the names in the folder durable. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_folder(folder: Path) -> None:
    """Raise RequestRefusedError if the storage folder is missing or cannot be written."""
    try:
        os.close(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    except PermissionError as error:
        raise RequestRefusedError(f"{folder} cannot be opened: {error.strerror}; run this as root") from error
    except OSError as error:
        raise RequestRefusedError(
            f"the storage folder {folder} cannot be opened: {error.strerror}; expected an existing folder, "
            "check storage.path of the configuration, STORAGE_DIR and --storage-dir"
        ) from error
    if not os.access(folder, os.W_OK | os.X_OK, effective_ids=True):
        raise RequestRefusedError(f"the storage folder {folder} cannot be written by user {os.geteuid()}: {why_not()}")


def why_not() -> str:
    """Return what to do about a file or folder that this process cannot write to."""
    if os.geteuid():
        return "run this as root"
    return "its file system is mounted read-only, mount it writable; or it is immutable, remove that (chattr -i)"


def check_durable(folder: Path) -> None:
    """Raise RequestRefusedError if the file system (CIFS, some of FUSE) cannot make names durable; OSError."""
    try:
        sync_folder(folder)
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.ENOTSUP, errno.ENOSYS}:
            raise
        raise RequestRefusedError(
            f"{folder} is on a file system ({_file_system(folder)}) that cannot make names durable (fsync: "
            f"{error.strerror}): move the folder to one that does, such as ext4"
        ) from error


def _file_system(folder: Path) -> str:
    """Return the type of the file system at the longest mount point above, the latest of equal ones."""
    real = Path(os.path.realpath(folder))
    above = [(len(point), at, kind) for at, (point, kind) in enumerate(_mounts()) if real.is_relative_to(point)]
    return max(above)[2] if above else "unknown"


def read_regular(path: Path, most: int = MAX_BYTES, *, follow: bool = False) -> bytes:
    """Read at most `most` bytes of a regular file, never waiting for a FIFO. Raises NotRegularError, OSError.

    `follow`: follow a symlink; the program's own files are never symlinks.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW))
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            with os.fdopen(descriptor, "rb") as file:
                return file.read(most)
        os.close(descriptor)
    except OSError as error:
        if error.errno not in {errno.ELOOP, errno.ENXIO}:  # a link, a socket
            raise
    raise NotRegularError(errno.EINVAL, "not a regular file", str(path))


def exposure(storage: Path, *, group: bool = True) -> list[str]:
    """Return why other users may put files into the storage folder or the journal's; with `group`, why a group may.

    Raises OSError.
    """
    found = []
    for folder in filter(Path.is_dir, (storage, storage / FOLDER)):
        status = folder.stat()
        mode = f"mode {stat.S_IMODE(status.st_mode):o}"
        if status.st_uid not in {0, os.geteuid()}:
            found.append(f"{folder} belongs to user {status.st_uid}: expected root or user {os.geteuid()}; chown it")
        elif status.st_mode & stat.S_IWOTH:
            found.append(f"everybody may write to {folder} ({mode}): chmod o-w")
        elif group and status.st_mode & stat.S_IWGRP:
            found.append(f"a group may write to {folder} ({mode}): chmod g-w")
    return found
