"""What is written to standard output and standard error: folded to the console, or not at all where nobody reads."""

import contextlib
import logging
import os
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import TextIO

from handler.errors import describe, harmless
from handler.exit_status import PENDING, UNREAD

from .journald import DEBUG, ERROR, INFO, JOURNALD, WARNING
from .terminal import Console

WAITING = ("handler.servers.est", "handler.servers.http", "handler.device.lock")
"""Modules that say what they wait for: to a person at a terminal at once, not only in the end."""


_PRIORITIES = {logging.DEBUG: DEBUG, logging.INFO: INFO, logging.WARNING: WARNING}


class OutputError(Exception):
    """Standard output takes no more. `status`: the exit status of a command that only shows something."""

    def __init__(self, error: OSError) -> None:
        """Keep what stands in the way."""
        super().__init__(f"standard output cannot be written to: {describe(error)}")
        self.status = UNREAD if isinstance(error, BrokenPipeError) else PENDING


def set_up(environment: Mapping[str, str]) -> None:
    """Have both streams be there, and escape what their console cannot show."""
    _open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        Console.set_up(stream, environment)


def set_up_messages(level: int, *, waits: bool) -> None:
    """Have the modules' messages of that level (`logging.INFO`) or a higher one written to standard error.

    `waits`: say at a terminal what is waited for, whatever the level.
    """
    logging.raiseExceptions = False  # of a message that cannot be written nobody reads either
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # the interpreter's and the libraries', which are for developers
    to_console = logging.StreamHandler(sys.stderr)
    to_console.setFormatter(MessageFormatter())
    logging.basicConfig(handlers=[to_console], level=level)
    sys.excepthook = _fault
    threading.excepthook = sys.unraisablehook = _fault_elsewhere
    logging.addLevelName(logging.WARNING, "warning")
    logging.addLevelName(logging.INFO, "info")
    logging.addLevelName(logging.DEBUG, "debug")
    for noisy in ("urllib3", "pkcs11"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    if waits and sys.stderr.isatty():
        for waiting in WAITING:
            logging.getLogger(waiting).setLevel(logging.INFO)


def _fault(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """Say that this program has a bug (sys.excepthook): the interpreter would say what is quoted as it is."""
    logging.getLogger("renew-client-cert").critical("a fault of this program", exc_info=(kind, error, traceback))


def _fault_elsewhere(event: "threading.ExceptHookArgs | sys.UnraisableHookArgs") -> None:
    """Say the same of one in a thread, or in what nobody waits for (threading.excepthook, sys.unraisablehook)."""
    if event.exc_value is not None:
        _fault(event.exc_type, event.exc_value, event.exc_traceback)


def silence() -> None:
    """Have nothing written to standard output any more."""
    sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115 - until the process ends


def say(text: str) -> None:
    """Write a text to standard error under the program's name."""
    with contextlib.suppress(OSError):  # nobody reads it
        first = "" if JOURNALD.reads(sys.stderr) else "renew-client-cert: "
        for line in _lines(sys.stderr, first, text, indent=2):
            sys.stderr.write(JOURNALD.line(sys.stderr, line, ERROR) + "\n")


def tell(text: str, first: str = "") -> None:
    """Write a text to standard output; what does not fit a line of the terminal goes on behind the end of `first`.

    Raises OutputError.
    """
    for line in _lines(sys.stdout, first, text):
        print_line(line)


def print_line(line: str) -> None:
    """Write a line to standard output as it is. Raises OutputError."""
    try:
        sys.stdout.write(JOURNALD.line(sys.stdout, line) + "\n")
    except OSError as error:
        raise OutputError(error) from error


def _lines(stream: TextIO, first: str, text: str, indent: int | None = None) -> Iterator[str]:
    from .table import hanging  # noqa: PLC0415 - the daemon does without

    return hanging(first, text, Console.of(stream, os.environ).width, indent)


class MessageFormatter(logging.Formatter):
    """Messages of the log, folded on a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """Give the message as lines; those of a traceback stand below it, and in from the margin."""
        lines = [*_lines(sys.stderr, f"{record.levelname}: ", record.getMessage())]
        if record.exc_info:
            lines += ["  " + harmless(line) for line in self.formatException(record.exc_info).split("\n")]
        return JOURNALD.line(sys.stderr, "\n".join(lines), _PRIORITIES.get(record.levelno, ERROR))


def _open_closed_streams() -> None:
    """Have something stand at 0, 1 and 2: else the next file that is opened stands there, and gets what is printed."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115 - until the process ends
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115


def flush() -> None:
    """Have standard output take what waits. Raises OutputError."""
    try:
        sys.stdout.flush()
    except OSError as error:
        raise OutputError(error) from error
