"""Runs hooks: one after the other, in an environment of their own, each for a limited time. Nothing here is fatal."""

import contextlib
import logging
import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from handler.errors import harmless

from .files import NOT_EXECUTABLE, hooks_in

log = logging.getLogger(__name__)

PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
ONE, IN_ALL = 30.0, 120.0
"""Seconds that one hook may take, and all of them: the daemon kills a call that is quiet for longer."""
TICK = 0.02
MOST_OUTPUT = 300
"""Characters of a hook's output, the last ones, that are logged and reported."""


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
