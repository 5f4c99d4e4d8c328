"""What a person sees of a rotation: a line per step on a terminal, plain lines for a log."""

import sys
import time
from typing import Protocol, TextIO

from cryptography import x509

from .keystore import IdentityNames
from .state import SWITCHED


class Progress(Protocol):
    """Hears what happens, as it happens."""

    def step_started(self, number: int, name: str) -> None:
        """A step begins."""

    def step_done(self) -> None:
        """It is done."""

    def step_failed(self, reason: str) -> None:
        """It failed, for that reason."""

    def completed(self, rotation_id: str, names: IdentityNames, certificate: x509.Certificate) -> None:
        """The rotation is complete: that identity is in use."""


def make_progress(stream: TextIO | None = None) -> Progress:
    """Choose by what the stream is (standard output where not given)."""
    stream = stream or sys.stdout
    return TerminalProgress(stream) if stream.isatty() else LogProgress(stream)


class LogProgress:
    """One fact a line, for fioconfig (which prefixes each) and the systemd journal."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._started = 0.0
        self._step = ""

    def step_started(self, number: int, name: str) -> None:
        """Remember which and when; a line of its own would say nothing yet."""
        self._step = f"[{number}/{SWITCHED}] {name}"
        self._started = time.monotonic()

    def step_done(self) -> None:
        """Say that the step is done."""
        self._write(f"{self._step}: ok, {self._seconds()}\n")

    def step_failed(self, reason: str) -> None:
        """Say why the step failed."""
        self._write(f"{self._step}: failed, {self._seconds()}: {reason}\n")

    def completed(self, rotation_id: str, names: IdentityNames, certificate: x509.Certificate) -> None:
        """Say what is in use now and until when."""
        self._write(f"rotation {rotation_id} complete\nin use now: {in_use(names, certificate)}\n")

    def _seconds(self) -> str:
        return f"{time.monotonic() - self._started:.1f} s"

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


class TerminalProgress(LogProgress):
    """The step's name when it begins, its end on the same line."""

    def step_started(self, number: int, name: str) -> None:
        """Begin the step's line."""
        super().step_started(number, name)
        self._write(f"{self._step} {self._dots()} ")

    def step_done(self) -> None:
        """End the step's line."""
        self._write(f"ok, {self._seconds()}\n")

    def step_failed(self, reason: str) -> None:
        """End the step's line, with the reason below it."""
        self._write(f"failed, {self._seconds()}\n      {reason}\n")

    def completed(self, rotation_id: str, names: IdentityNames, certificate: x509.Certificate) -> None:
        """Say what is in use now and until when."""
        self._write(f"Done: {rotation_id}. In use now: {in_use(names, certificate)}\n")

    def _dots(self) -> str:
        try:
            "…".encode(self._stream.encoding or "ascii")
        except UnicodeEncodeError:
            return "..."
        return "…"


def in_use(names: IdentityNames, certificate: x509.Certificate) -> str:
    """Name an identity in one line: where key and certificate are, whose it is, and until when."""
    return (
        f"key {names.key}, certificate {names.certificate} "
        f"({certificate.subject.rfc4514_string()}), valid until {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
    )
