"""What a person sees of a rotation: a line per step on a terminal, plain lines for a log."""

import contextlib
import logging
import sys
import threading
import time
from typing import TextIO

from cryptography import x509

from handler.device.keystore import IdentityNames
from handler.errors import harmless

from .table import hanging

STEPS = 5
"""Of a rotation, as fioconfig counts them."""
_INDENT = 6 * " "


def make_progress(stream: TextIO | None = None, width: int | None = None) -> "LogProgress":
    """Choose by what the stream is (standard output where not given). `width`: columns of the terminal, if it has any.

    On a terminal, log messages that go to one as well no longer run into the line of a step.
    """
    stream = stream or sys.stdout
    if not stream.isatty():
        return LogProgress(stream)
    progress = TerminalProgress(stream, width)
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.StreamHandler) and handler.stream.isatty():
            handler.addFilter(progress.make_room)
    return progress


class LogProgress:
    """One fact a line, for fioconfig (which prefixes each) and the systemd journal."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._started = 0.0
        self._step = ""

    def step_started(self, number: int, name: str) -> None:
        """Remember which and when; a line of its own would say nothing yet."""
        self._step = f"[{number}/{STEPS}] {name}"
        self._started = time.monotonic()

    def step_done(self) -> None:
        """Say that the step is done."""
        self._say(f"{self._step}: ok, {self._seconds()}")

    def step_failed(self, reason: str) -> None:
        """Say why the step failed."""
        self._say(f"{self._step}: failed, {self._seconds()}: {reason}")

    def completed(self, rotation_id: str, names: IdentityNames, certificate: x509.Certificate) -> None:
        """Say what is in use now and until when."""
        self._say(f"rotation {rotation_id} complete", f"in use now: {in_use(names, certificate)}")

    def _seconds(self) -> str:
        return f"{time.monotonic() - self._started:.1f} s"

    def _say(self, *lines: str) -> None:
        self._write("".join(f"{harmless(line)}\n" for line in lines))

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError):  # a rotation goes on where nobody reads of it
            self._stream.write(text)
            self._stream.flush()


class TerminalProgress(LogProgress):
    """The step's name when it begins, its end on the same line; on a line of its own after a message in between."""

    def __init__(self, stream: TextIO, width: int | None = None) -> None:
        super().__init__(stream)
        self._width = width
        self._line_open = False
        self._lock = threading.RLock()  # messages come from the threads beside the rotation too

    def step_started(self, number: int, name: str) -> None:
        """Begin the step's line."""
        super().step_started(number, name)
        self._begin_line()

    def step_done(self) -> None:
        """End the step's line."""
        self._end_line(f"ok, {self._seconds()}\n")

    def step_failed(self, reason: str) -> None:
        """End the step's line, with the reason below it."""
        self._end_line("\n".join([f"failed, {self._seconds()}", *hanging(_INDENT, reason, self._width), ""]))

    def make_room(self, _message: logging.LogRecord) -> bool:
        """Leave the step's line for a message that is about to be written (a logging filter: lets all pass)."""
        with self._lock:
            if self._line_open:
                self._line_open = False
                self._write("\n")
        return True

    def _begin_line(self) -> None:
        with self._lock:
            self._write(self._beginning)
            self._line_open = True

    @property
    def _beginning(self) -> str:
        number, _, name = self._step.partition(" ")
        # Folded with the three dots that a terminal shows which knows ASCII only.
        return "\n".join(hanging(f"{number} ", f"{name} ...", self._width)).removesuffix("...") + "… "

    def _end_line(self, text: str) -> None:
        taken = len(self._beginning.rpartition("\n")[2]) + len("..") + text.find("\n")
        with self._lock:
            if not self._line_open:
                self._begin_line()
            self._line_open = False
            self._write(text if self._width is None or taken <= self._width else f"\n{_INDENT}{text}")

    def completed(self, rotation_id: str, names: IdentityNames, certificate: x509.Certificate) -> None:
        """Say what is in use now and until when."""
        text = f"{rotation_id}. In use now: {in_use(names, certificate)}"
        self._write("\n".join([*hanging("Done: ", text, self._width), ""]))


def in_use(names: IdentityNames, certificate: x509.Certificate) -> str:
    """Name an identity in one line: where key and certificate are, whose it is, and until when."""
    return (
        f"key {names.key}, certificate {names.certificate} "
        f"({certificate.subject.rfc4514_string()}), valid until {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
    )
