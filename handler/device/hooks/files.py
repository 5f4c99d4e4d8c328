"""Which executables run after a rotation, in which order, and why others do not.

| in a hooks.d folder | |
| --- | --- |
| the same name in both folders | only the one in /etc counts |
| an empty file, a link to /dev/null | runs nothing: hides the one in /usr/lib |
| hidden files, byte code, and backups of editors and dpkg | ignored |
| not a file, not executable, or another user than root can change it or its path | not run, `check` says why |
"""

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

FOLDERS = (Path("/etc/renew-client-cert/hooks.d"), Path("/usr/lib/renew-client-cert/hooks.d"))
"""The first one overrides the second."""
NOT_EXECUTABLE = "is not executable"
_IGNORED = ("~", ".bak", ".old", ".new", ".swp", ".rpmnew", ".rpmsave", ".rpmorig", ".ucf-dist", ".ucf-old")
_MOST_LINKS = 40  # as the kernel, path_resolution(7)


@dataclass(frozen=True)
class Hook:
    """One executable, and why it does not run; None if it runs."""

    path: Path
    problem: str | None


def hooks_in(folders: Sequence[Path] = FOLDERS) -> list[Hook]:
    """List the hooks by file name, those that are not run too."""
    found: dict[str, Hook | None] = {}
    refused = []
    for folder in folders:
        try:
            names = [path.name for path in folder.iterdir()]
            problem = _why_unsafe(folder) if names else None
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            refused.append(Hook(folder, f"cannot be read: {error.strerror}"))
            continue
        for name in filter(_counts, names):
            if problem is not None:  # it may be anyone's, so it overrides nothing
                refused.append(Hook(folder / name, problem))
            elif name not in found:
                found[name] = _hook(folder / name)
    return sorted([*filter(None, found.values()), *refused], key=lambda hook: hook.path.name)


def _counts(name: str) -> bool:
    return name != "__pycache__" and not (name.startswith(".") or name.endswith(_IGNORED) or ".dpkg-" in name)


def _hook(path: Path) -> Hook | None:
    """Judge a file; None if it runs nothing, to hide another one."""
    try:
        status = path.stat()
        if (stat.S_ISREG(status.st_mode) and status.st_size == 0) or os.path.realpath(path) == os.devnull:
            return None
        if not stat.S_ISREG(status.st_mode):
            return Hook(path, "is not a regular file")
        return Hook(path, _why_unsafe(path) or (None if status.st_mode & 0o111 else NOT_EXECUTABLE))
    except OSError as error:
        return Hook(path, f"cannot be read: {error.strerror}")


def _why_unsafe(path: Path) -> str | None:
    """Say who else than root can change a file or folder, or a folder or link on the way to it. Raises OSError."""
    left, at, links = [*path.absolute().parts], Path(), 0
    while left:
        part = left.pop(0)
        if part == "..":
            at = at.parent
            continue
        at = at / part
        status = at.lstat()
        if status.st_uid not in {0, os.geteuid()}:
            return f"{at} belongs to user {status.st_uid}, not to root"
        if stat.S_ISLNK(status.st_mode):
            links += 1
            if links > _MOST_LINKS:
                return f"{path} leads through too many links"
            left, at = [*Path(at.readlink()).parts, *left], at.parent
        # In a sticky folder, users cannot replace root's files, but they can add others.
        elif status.st_mode & 0o022 and not (left and status.st_mode & stat.S_ISVTX):
            return f"{at} can be written by users other than root (mode {stat.S_IMODE(status.st_mode):04o})"
    return None
