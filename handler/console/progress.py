"""The progress of a rotation: one line per step on a terminal, plain lines in a log."""

import contextlib
import logging
import sys
import threading
import time
from typing import TextIO

from handler.crypto.names import shown
from handler.device.keystore import IdentityNames
from handler.errors import harmless
from hsm.certificate import Certificate

from .journald import ERROR, INFO, JOURNALD
from .table import hanging
from .terminal import Console

STEPS = 5
"""Steps of a rotation, as fioconfig counts them."""
_INDENT = 6 * " "


def make_progress(stream: TextIO) -> "LogProgress":
    """Return the progress for a stream. On a terminal, log messages first end the line of an open step."""
    if not stream.isatty():
        return LogProgress(stream)
    progress = TerminalProgress(stream, Console.of(stream).width)
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.StreamHandler) and handler.stream.isatty():
            handler.addFilter(progress.make_room)
    return progress


class LogProgress:
    """One fact per line, for fioconfig (which prefixes each) and the systemd journal."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._started = 0.0
        self._step = ""
        self.shown: str | None = None
        """The last reason that a person has read on this terminal."""

    def step_started(self, number: int, name: str) -> None:
        """Remember the step and the time."""
        self._step = f"[{number}/{STEPS}] {name}"
        self._started = time.monotonic()

    def step_done(self) -> None:
        """Report that the step is done."""
        self._say(f"{self._step}: ok, {self._seconds()}")

    def step_failed(self, reason: str) -> None:
        """Report why the step failed."""
        self._say(f"{self._step}: failed, {self._seconds()}: {reason}", priority=ERROR)

    def completed(self, rotation_id: str, names: IdentityNames, certificate: Certificate) -> None:
        """Report the identity in use and its end of validity."""
        self._say(f"rotation {rotation_id} complete", f"in use now: {in_use(names, certificate)}")

    def _seconds(self) -> str:
        return f"{time.monotonic() - self._started:.1f} s"

    def _say(self, *lines: str, priority: int = INFO) -> None:
        self._write("".join(f"{harmless(line)}\n" for line in lines), priority)

    def _write(self, text: str, priority: int = INFO) -> None:
        with contextlib.suppress(OSError):  # a rotation goes on without a reader
            self._stream.write(JOURNALD.line(self._stream, text, priority))
            self._stream.flush()


class TerminalProgress(LogProgress):
    """Shows a step's name when it starts and its result on the same line, or on a new one after a log message."""

    def __init__(self, stream: TextIO, width: int | None = None) -> None:
        super().__init__(stream)
        self._width = width
        self._line_open = False
        self._lock = threading.RLock()  # other threads log as well

    def step_started(self, number: int, name: str) -> None:
        """Start the step's line."""
        super().step_started(number, name)
        with self._lock:
            self._write(self._beginning)
            self._line_open = True

    def step_done(self) -> None:
        """Finish the step's line."""
        self._end_line(f"ok, {self._seconds()}\n")

    def step_failed(self, reason: str) -> None:
        """Finish the step's line, with the reason below it."""
        self.shown = reason if sys.stderr.isatty() else None
        self._end_line("\n".join([f"failed, {self._seconds()}", *hanging(_INDENT, reason, self._width), ""]))

    def make_room(self, _message: logging.LogRecord) -> bool:
        """Finish the step's line before a log message is written (a logging filter that lets everything pass)."""
        with self._lock:
            if self._line_open:
                self._line_open = False
                self._write("\n")
        return True

    @property
    def _beginning(self) -> str:
        number, _, name = self._step.partition(" ")
        # Folded with three dots, which is what an ASCII terminal shows for an ellipsis.
        return "\n".join(hanging(f"{number} ", f"{name} ...", self._width)).removesuffix("...") + "… "

    def _end_line(self, text: str) -> None:
        taken = len(self._beginning.rpartition("\n")[2]) + len("..") + text.find("\n")
        with self._lock:
            self._write("" if self._line_open else self._beginning)
            self._line_open = False
            self._write(text if self._width is None or taken <= self._width else f"\n{_INDENT}{text}")

    def completed(self, rotation_id: str, names: IdentityNames, certificate: Certificate) -> None:
        """Report the identity in use and its end of validity."""
        text = f"{rotation_id}. In use now: {in_use(names, certificate)}"
        self._write("\n".join([*hanging("Done: ", text, self._width), ""]))


def in_use(names: IdentityNames, certificate: Certificate) -> str:
    """Describe an identity in one line: key, certificate, subject and end of validity."""
    return (
        f"key {names.key}, certificate {names.certificate} "
        f"({shown(certificate.subject)}), valid until {certificate.shown_end}"
    )
