"""The process that does the daemon's work: whether it gets on, and its end.

It gets on while it uses the processor (it or what it runs) or the journal changes. A call is quiet for two minutes at
most: it waits in line for a server no longer (`http.Limits.total`), for systemctl and for the lock a minute each. One
that is quiet for longer hangs, and is killed. One that is still there after that hangs in the kernel, in a token's
driver perhaps: nothing here can help, so the watchdog is left to bite.
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
"""Seconds in which it comes to a safe point and ends, once it is asked to."""
REAP_LIMIT = 0.3


@dataclass(frozen=True)
class ChildLimits:
    """Seconds."""

    quiet: float = 150.0
    """Without getting on."""
    total: float = 720.0
    """A wait for the lock, two minutes of its own, a slow token, services that restart, hooks."""
    killed: float = 5.0
    """Until it is gone, once it is killed."""
    tick: float = 10.0
    """Between two looks."""

    @classmethod
    def within(cls, watchdog: float | None) -> "ChildLimits":
        """Give limits by which a child that hangs is killed before a watchdog of so many seconds kills all."""
        if watchdog is None:
            return cls()
        return cls(quiet=min(cls.quiet, 0.8 * watchdog), tick=min(cls.tick, watchdog / 10))


class Child:
    """A running process. `signature` gives what changes with the journal; `kill` ends a process for good."""

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
        # The daemon waits for a token itself, without the lock and in less memory.
        self._process = subprocess.Popen(command, env={**os.environ, "HSM_WAIT": "0"})
        self._began = self._moved = time.monotonic()
        self._killed: float | None = None
        self._seen: object = None

    @property
    def status(self) -> int | None:
        """How it ended: its exit status, or minus a signal's number; None while it runs."""
        return self._process.poll()

    def gets_on(self) -> bool:
        """Tell whether it has got on since the last time this was asked; kill it where it hangs."""
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
            "the rotation hangs: process %d is killed %.0f s after it began, %.0f s after it last got on",
            self._process.pid,
            now - self._began,
            now - self._moved,
        )
        self._killed = now
        self._kill(self._process)
        return True

    def stop(self) -> None:
        """Have it end at a safe point, or else end it, within two seconds.

        Any point is safe, but a token is better not left in the middle of an operation.
        """
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_LIMIT)
            return
        self._kill(self._process)
        try:
            self._process.wait(REAP_LIMIT)
        except subprocess.TimeoutExpired:
            log.warning("process %d does not end: it is left to systemd", self._process.pid)

    def _used(self) -> int:
        """Give the processor time that it and its own children have used (clock ticks; proc_pid_stat(5))."""
        try:
            fields = Path("/proc", str(self._process.pid), "stat").read_text("ascii", "replace").rpartition(")")[2]
        except OSError:  # it has ended
            return 0
        return sum(int(each) for each in fields.split()[11:15])
