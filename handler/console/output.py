"""Standard output and standard error: text is folded to the width of a terminal, escaped if it has to be."""

import contextlib
import logging
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from types import TracebackType
from typing import TextIO

from handler.errors import describe, harmless
from handler.exit_status import PENDING, UNREAD

from .journald import DEBUG, ERROR, INFO, JOURNALD, WARNING
from .terminal import Console, escape

WAITING = ("handler.servers.est", "handler.servers.http", "handler.device.lock", "hsm.token")
"""Modules that say what they wait for: at a terminal, a person sees that at once."""

_PRIORITIES = {logging.DEBUG: DEBUG, logging.INFO: INFO, logging.WARNING: WARNING}


class OutputError(Exception):
    """Standard output cannot be written. `status`: the exit status of a command that only shows something."""

    def __init__(self, error: OSError) -> None:
        """Say why."""
        super().__init__(f"cannot write to standard output: {describe(error)}")
        self.status = UNREAD if isinstance(error, BrokenPipeError) else PENDING


def set_up() -> None:
    """Open closed streams, and make both escape what their console cannot show."""
    for number in range(3):  # otherwise a file that is opened later gets what is printed
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115 - until the process ends
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        escape(stream)


def set_up_messages(level: int, *, waits: bool) -> None:
    """Write log messages of `level` (such as `logging.INFO`) or above to standard error.

    `waits`: at a terminal, say what the program waits for at any level.
    """
    logging.raiseExceptions = False  # no reader, no complaint
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # for developers
    to_console = logging.StreamHandler(sys.stderr)
    to_console.setFormatter(MessageFormatter())
    logging.basicConfig(handlers=[to_console], level=level)
    sys.excepthook = _fault
    threading.excepthook = sys.unraisablehook = _fault_elsewhere
    for named in _PRIORITIES:
        logging.addLevelName(named, logging.getLevelName(named).lower())
    for noisy in ("urllib3", "pkcs11"):
        logging.getLogger(noisy).setLevel(logging.ERROR)  # urllib3 warns of odd heads, with a traceback
    if waits and sys.stderr.isatty():
        for waiting in WAITING:
            logging.getLogger(waiting).setLevel(logging.INFO)


def _fault(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """Report a bug (sys.excepthook), with text from outside escaped, which the interpreter would print as it is."""
    logging.getLogger("renew-client-cert").critical("a bug in this program", exc_info=(kind, error, traceback))


def _fault_elsewhere(event: "threading.ExceptHookArgs | sys.UnraisableHookArgs") -> None:
    """Say the same of one in a thread, or of one that cannot be raised (threading.excepthook, sys.unraisablehook)."""
    if event.exc_value is not None:
        _fault(event.exc_type, event.exc_value, event.exc_traceback)


def silence() -> None:
    """Discard everything that is written to standard output from now on."""
    sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115 - until the process ends


def say(text: str) -> None:
    """Write a text to standard error, after the program's name."""
    with contextlib.suppress(OSError):  # nobody can read it
        first = "" if JOURNALD.reads(sys.stderr) else "renew-client-cert: "
        for line in _lines(sys.stderr, first, text, indent=2):
            sys.stderr.write(JOURNALD.line(sys.stderr, line, ERROR) + "\n")


def tell(text: str, first: str = "") -> None:
    """Write `first` and a text to standard output, folded and indented by `first`. Raises OutputError."""
    for line in _lines(sys.stdout, first, text):
        print_line(line)


def print_line(line: str) -> None:
    """Write a line to standard output, unfolded. Raises OutputError."""
    try:
        sys.stdout.write(JOURNALD.line(sys.stdout, line) + "\n")
    except OSError as error:
        raise OutputError(error) from error


def _lines(stream: TextIO, first: str, text: str, indent: int | None = None) -> Iterator[str]:
    from .table import hanging  # noqa: PLC0415 - the daemon does not need it

    return hanging(first, text, Console.of(stream).width, indent)


class MessageFormatter(logging.Formatter):
    """Formats log messages, folded on a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the message as lines, followed by an indented traceback if there is one."""
        lines = [*_lines(sys.stderr, f"{record.levelname}: ", record.getMessage())]
        if record.exc_info:
            lines += ["  " + harmless(line) for line in self.formatException(record.exc_info).split("\n")]
        return JOURNALD.line(sys.stderr, "\n".join(lines), _PRIORITIES.get(record.levelno, ERROR))


def drop_unwritable(stream: TextIO) -> None:
    """Drop what a stream cannot write: at exit the interpreter would try again, and end with a status of its own."""
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def flush() -> None:
    """Flush standard output. Raises OutputError."""
    try:
        sys.stdout.flush()
    except OSError as error:
        raise OutputError(error) from error
