"""Hooks, executables of other users of the certificate: which ones run after a rotation, in which order, and how.

| in a hooks.d folder | |
| --- | --- |
| the same name in both folders | only the one in /etc counts |
| an empty file, a link to /dev/null | runs nothing: hides the one in /usr/lib |
| hidden files, byte code, and backups of editors and dpkg | ignored |
| not a file, not executable, or another user than root can change it or its path | not run, `check` says why |

They run one after the other, in an environment of their own, each for a limited time. Nothing here is fatal.
"""

import contextlib
import logging
import os
import select
import signal
import stat
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from handler.errors import harmless

log = logging.getLogger(__name__)

FOLDERS = (Path("/etc/renew-client-cert/hooks.d"), Path("/usr/lib/renew-client-cert/hooks.d"))
"""The first one overrides the second."""
NOT_EXECUTABLE = "is not executable"
_IGNORED = ("~", ".bak", ".old", ".new", ".swp", ".rpmnew", ".rpmsave", ".rpmorig", ".ucf-dist", ".ucf-old")
_MOST_LINKS = 40  # as the kernel, path_resolution(7)
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
ONE, IN_ALL = 30.0, 120.0
"""Seconds that one hook may take, and all of them: the daemon kills a call that is quiet for longer."""
TICK = 0.02
MOST_OUTPUT = 300
"""Characters of a hook's output, the last ones, that are logged and reported."""


class Hook(NamedTuple):
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


def run_hooks(folders: Sequence[Path], environment: Mapping[str, str], one: float = ONE, total: float = IN_ALL) -> str:
    """Run the hooks in these folders with that environment and PATH; say what failed, "" if nothing did."""
    end, failures = time.monotonic() + total, []
    for hook in hooks_in(folders):
        failure, seconds = hook.problem, min(one, end - time.monotonic())
        if failure == NOT_EXECUTABLE:  # a README, perhaps
            log.info("hook %s %s", hook.path, failure)
            continue
        if failure is not None:
            failure = f"was not run: {failure}"
        elif seconds <= 0:
            failure = f"was not run: the hooks before it took {total:g} s"
        else:
            failure = _run(hook.path, environment, seconds)
        if failure is not None:
            failures.append(harmless(f"hook {hook.path} {failure}"))
            log.warning("%s", failures[-1])
    return "; ".join(failures)


def _run(path: Path, environment: Mapping[str, str], seconds: float) -> str | None:
    """Run one executable; say how it failed. What is left of its process group when it ends is killed."""
    log.info("hook %s runs", path)
    try:
        process = subprocess.Popen(
            [path],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd="/",
            env={"PATH": PATH, **environment},
            umask=0o077,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        return f"could not be started: {getattr(error, 'strerror', None) or error}"
    assert process.stdout is not None  # noqa: S101 - it is a pipe
    with process.stdout as pipe:
        try:
            output, ended = _output(process.pid, pipe.fileno(), time.monotonic() + seconds)
        finally:  # before it is waited for, so that the group is its own still
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            status = process.wait()
    said = " ".join(output.decode("utf-8", "replace").split())[-MOST_OUTPUT:].lstrip()
    if ended and status == 0:
        log.info("hook %s is done%s", path, said and f": {harmless(said)}")
        return None
    how = f"ended with status {status}" if status > 0 else f"was ended by signal {-status}"
    return (how if ended else f"was killed after {seconds:.2g} s") + (said and f": {said}")


def _output(pid: int, pipe: int, end: float) -> tuple[bytes, bool]:
    """Read the end of its output until it ends, even if others hold the pipe; tell whether it ended in time."""
    output, pipes = b"", [pipe]
    while not (ended := os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None):
        left = end - time.monotonic()
        if left <= 0:
            break
        if select.select(pipes, [], [], min(left, TICK))[0]:
            said = os.read(pipe, 65536)
            output = (output + said)[-4 * MOST_OUTPUT :]
            pipes = pipes if said else []
    if pipes and select.select(pipes, [], [], 0)[0]:  # a pipe holds no more than this
        output = (output + os.read(pipe, 65536))[-4 * MOST_OUTPUT :]
    return output, ended
