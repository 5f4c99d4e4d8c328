"""The child process that does the daemon's work: detect that it hangs, and end it.

The child makes progress if it or its children use the processor, or if the journal changes. A healthy call is quiet for
two minutes at most (`http.Limits.total` for a server; a minute each for systemctl and the lock). A child that is quiet
for longer hangs, and is killed. If it survives that, it hangs in the kernel, perhaps in a token's driver: only
systemd's watchdog can help then.
"""

import contextlib
import logging
import os
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)

STOP_LIMIT = 1.5
"""Seconds that a child has after SIGTERM to reach a safe point and exit."""
REAP_LIMIT = 0.3


@dataclass(frozen=True)
class ChildLimits:
    """Seconds."""

    quiet: float = 150.0
    """Without progress."""
    total: float = 720.0
    """Covers the wait for the lock, two minutes of network, a slow token, service restarts and hooks."""
    killed: float = 5.0
    """From the kill until the process is gone."""
    tick: float = 10.0
    """Between two checks."""

    @classmethod
    def within(cls, watchdog: float) -> "ChildLimits":
        """Return limits that kill a hanging child before a watchdog of `watchdog` seconds kills the service."""
        return cls(quiet=min(cls.quiet, 0.8 * watchdog), tick=min(cls.tick, watchdog / 10))


class Child:
    """A running process. `signature` returns a value that changes with the journal."""

    def __init__(
        self,
        command: Sequence[str],
        signature: Callable[[], object],
        limits: ChildLimits,
        kill: Callable[[subprocess.Popen[bytes]], None] = subprocess.Popen.kill,
    ) -> None:
        self._signature = signature
        self._limits = limits
        self._kill = kill
        # The daemon itself waits for a token: without the lock, and in less memory.
        self._process = subprocess.Popen(command, env={**os.environ, "HSM_WAIT": "0"})
        self._began = self._moved = time.monotonic()
        self._killed: float | None = None
        self._seen: object = None

    @property
    def status(self) -> int | None:
        """The exit status, or minus the number of the signal that ended it; None while it runs."""
        return self._process.poll()

    def made_progress(self) -> bool:
        """Tell whether the child made progress since the last call; kill it if it hangs."""
        now = time.monotonic()
        if self._killed is not None:
            return now - self._killed < self._limits.killed
        state = (self._used(), self._signature())
        moved = state != self._seen
        if moved:
            self._seen, self._moved = state, now
        if now - self._moved < self._limits.quiet and now - self._began < self._limits.total:
            return moved
        log.warning(
            "the rotation hangs: killing process %d after %.0f s, %.0f s of them without progress; it will be resumed",
            self._process.pid,
            now - self._began,
            now - self._moved,
        )
        self._killed = now
        self._kill(self._process)
        return True

    def stop(self) -> None:
        """Ask the child to exit, kill it if it does not; takes two seconds at most.

        Killing it is safe at any point, but a token should not be interrupted in the middle of an operation.
        """
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_LIMIT)
            return
        self._kill(self._process)
        try:
            self._process.wait(REAP_LIMIT)
        except subprocess.TimeoutExpired:
            log.warning("process %d cannot be killed; leaving it to systemd", self._process.pid)

    def _used(self) -> int:
        """Return the processor time of the child and its own children (clock ticks; proc_pid_stat(5))."""
        try:
            fields = Path("/proc", str(self._process.pid), "stat").read_text("ascii", "replace").rpartition(")")[2]
        except OSError:  # it has exited
            return 0
        return sum(int(each) for each in fields.split()[11:15])
