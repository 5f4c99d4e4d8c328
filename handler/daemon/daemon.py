"""The daemon: finishes what is pending, then exits.

The daemon only waits; a child process (`resume --unattended`) runs the rotation. While it waits, the daemon holds no
lock, no token session, no connection and little memory: nothing here may import cryptography, requests or a PKCS#11
module (and pyudev only while waiting for a token).

    nothing due ─▶ remove the marker, exit 0
    due ─▶ wait (back-off, Retry-After, the clock, the token, the lock) ─▶ run the child ─▶ look again
"""

import contextlib
import fcntl
import logging
import os
import selectors
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from handler.backoff import Backoff
from handler.device.lock import device_lock
from handler.device.storage import FOLDER, remove
from handler.errors import BusyError, describe
from handler.journal.pending import JOURNAL, LaterJournalError, Pending, marker, read_pending
from handler.journal.waits import delay_of

from .child import STOP_LIMIT, Child, ChildLimits
from .notify import Notifier
from .waits import clock, seconds_until, waits_for_token, words

log = logging.getLogger(__name__)

TICK = 10.0
"""Seconds between two checks of whether the clock was set (Python has timerfd_create(2) only since 3.13)."""
LOCK_TICK = 1.0
SETTLED = 2.0
"""Seconds after which an unreadable journal counts as broken rather than as being written right now."""
CLOCK_JUMP = 60.0
"""Seconds: a larger difference means that the clock was set, not slewed."""


class Daemon:
    """Serves one storage folder. `child` is the command that resumes what is pending."""

    def __init__(self, storage: Path, child: Sequence[str], notifier: Notifier, backoff: Backoff) -> None:
        self._storage = storage
        self._child = child
        self._notifier = notifier
        self._backoff = backoff
        self._selector = selectors.DefaultSelector()
        self._stopping = False
        self._failures = 0
        self._was_killed = False
        self._seen: tuple[int, int, int] | None = None
        self._clock = clock()
        self._status = ""
        self._listening = False
        self._device_came = False

    def run(self) -> None:
        """Return when nothing is due, or after SIGTERM. Raises OSError if the journal cannot be read."""
        self._hear_signals()
        self._watch_folder()
        self._pending()
        # Before the first wait, even for the lock, so that the unit starts quickly.
        self._notifier.tell(READY=1, STATUS="reading the journal")
        pending = self._look()
        # The udev rule restarts the daemon when a device appears, and that event is over by now.
        news = pending is not None and waits_for_token(pending)
        while pending and not self._stopping:
            due = self._wait(pending, self._schedule(pending, news=news))
            news = due and self._work(pending)
            pending = self._look()
        self._say("stopped" if self._stopping else "nothing is pending")
        self._notifier.tell(STOPPING=1)

    # What is pending

    def _look(self) -> Pending | None:
        """Read the journal. If nothing is due, remove the marker, unless a rotation is running right now."""
        while not self._stopping:
            self._seen = self._signature()  # before reading, so that a later change is noticed
            pending = self._pending()
            if pending and pending.due:
                return pending
            with contextlib.suppress(BusyError), device_lock(self._storage, 0.0):
                pending = self._pending()
                if not (pending and pending.due):
                    remove(marker(self._storage))
                    return None
                continue
            self._say("waiting: another process is rotating")
            self._sleep(LOCK_TICK)
        return None

    def _pending(self) -> Pending | None:
        """Read the journal. An unreadable one is due: the child reports it, and sets a broken one aside."""
        try:
            return read_pending(self._storage)
        except LaterJournalError as error:
            return Pending(problem=str(error))

    def _schedule(self, pending: Pending, *, news: bool = False) -> float:
        """Return when to try again, on the monotonic clock.

        `news`: what we waited for may have come, so only a server's Retry-After counts.
        """
        now, self._clock = time.monotonic(), clock()
        waiting = pending.waiting
        attempts = max(self._failures, waiting.attempts if waiting else 0)
        asked = seconds_until(waiting)
        if attempts == 0 and pending.problem:
            return now + SETTLED
        if attempts == 0 or (news and asked is None):
            return now
        return now + delay_of(pending, self._backoff, attempts, asked)

    def _signature(self) -> tuple[int, int, int] | None:
        """Return a value that changes with every change of the journal."""
        try:
            status = (self._storage / FOLDER / JOURNAL).stat()
        except FileNotFoundError:
            return None
        return status.st_ino, status.st_mtime_ns, status.st_size

    # Waiting

    def _wait(self, pending: Pending, at: float) -> bool:
        """Wait until `at`. Return False if the journal changed or the daemon was told to stop."""
        if waits_for_token(pending):
            self._listen()
        while not self._stopping:
            if self._signature() != self._seen:
                self._failures = 0
                return False
            at = self._after_clock_was_set(pending, at)
            remaining = at - time.monotonic()
            if remaining <= 0 or self._device_came:
                self._device_came = False
                with contextlib.suppress(BusyError), device_lock(self._storage, 0.0):
                    return True
                self._say("waiting: another process is rotating")
                self._sleep(LOCK_TICK)
                continue
            self._say(words(pending, clock() + at))
            self._sleep(min(remaining, TICK))
        return False

    def _after_clock_was_set(self, pending: Pending, at: float) -> float:
        """Return when to try again by the clock as it is now.

        A wrong clock may be why the last call failed (TLS). If a server asked for a delay, a clock set forward shortens
        it; a clock set back changes only the displayed time.
        """
        jumped = clock() - self._clock
        if abs(jumped) <= CLOCK_JUMP:
            return at
        log.info("the clock was set by %+.0f s", jumped)
        if jumped > 0 or not (pending.waiting and pending.waiting.until):
            return self._schedule(pending, news=True)
        self._clock = clock()
        return at

    def _sleep(self, seconds: float) -> None:
        """Sleep, or return earlier if something happens; keep the watchdog quiet."""
        self._notifier.tell(WATCHDOG=1)
        self._select(min(seconds, self._notifier.watchdog / 3))

    def _select(self, seconds: float) -> None:
        for key, _ in self._selector.select(seconds):
            key.data()

    def _listen(self) -> None:
        """Listen to udev from now on."""
        if self._listening:
            return
        try:
            from hsm.devices import Devices  # noqa: PLC0415 - needed only to wait for a token

            devices = Devices()
        except (ImportError, OSError) as error:
            log.info("cannot listen to udev, so a new device is not noticed: %s", error)
            return

        def heard() -> None:
            while path := devices.appeared():
                log.info("a device appeared: %s", path)
                self._device_came = True

        self._listening = True
        self._selector.register(devices, selectors.EVENT_READ, heard)

    def _watch_folder(self) -> None:
        """Receive SIGIO when the journal's folder changes (fcntl(2), F_NOTIFY), as long as this process lives."""
        try:
            descriptor = os.open(self._storage / FOLDER, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            changes = fcntl.DN_CREATE | fcntl.DN_DELETE | fcntl.DN_RENAME | fcntl.DN_MODIFY | fcntl.DN_MULTISHOT
            fcntl.fcntl(descriptor, fcntl.F_NOTIFY, changes)
        except FileNotFoundError:
            pass  # nothing was ever pending
        except OSError as error:
            log.info("cannot watch the journal's folder, checking it every few seconds: %s", describe(error))

    # Working

    def _work(self, pending: Pending) -> bool:
        """Run the child and wait for it. Tell whether it was killed, and the child before it was not.

        If so, run another one at once: it repairs what the killed one left half done, such as a stopped service.
        """
        if pending.problem:
            self._say(f"checking the journal: {pending.problem}")
        else:
            self._say(f"rotation {pending.rotation_id}: working" if pending.rotation_id else "delivering events")
        before = self._signature()
        limits = ChildLimits.within(self._notifier.watchdog)
        child = Child(self._child, self._signature, limits)
        while child.status is None and not self._stopping:
            if child.made_progress():
                self._notifier.tell(WATCHDOG=1)
            self._select(limits.tick)
        if self._stopping:
            self._notifier.tell(STOPPING=1, STATUS="stopping", EXTEND_TIMEOUT_USEC=int(2e6 * STOP_LIMIT))
            child.stop()
            return False
        log.info("the child exited with status %s", child.status)
        after = self._pending()
        # Count here what the journal does not count: a call that left it unchanged, or without a reason.
        self._failures = self._failures + 1 if after and (not after.waiting or self._signature() == before) else 0
        killed, was_killed = (child.status or 0) < 0, self._was_killed
        self._was_killed = killed
        return killed and not was_killed

    # Small parts

    def _hear_signals(self) -> None:
        """Let signals wake the loop: SIGTERM and SIGINT end it, SIGCHLD and SIGIO make it look again."""
        reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._selector.register(reader, selectors.EVENT_READ, lambda: os.read(reader, 4096))
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGIO):
            signal.signal(number, self._heard)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)

    def _heard(self, number: int, _frame: FrameType | None) -> None:
        self._stopping |= number in {signal.SIGTERM, signal.SIGINT}

    def _say(self, status: str) -> None:
        if status != self._status:
            self._status = status
            log.info("%s", status)
            self._notifier.tell(STATUS=status)
