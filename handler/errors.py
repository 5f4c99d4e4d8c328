"""What can end a call, in words for people. A message says what failed, why, and what to do next; never a secret."""

import contextlib
import errno
from collections.abc import Iterator
from datetime import datetime

from hsm.errors import ModuleError, ObjectConflictError, ObjectMissingError, PinError, TokenError, UnsupportedError

MAX_TEXT = 4000
"""Characters of a message; a server may send a name of 2 MB."""
_DISK = "look for its disk's errors in the kernel's log"
_ADVICE = {
    errno.EACCES: "run this as root",
    errno.EPERM: "run this as root, and remove attributes that forbid it (lsattr, chattr)",
    errno.ENOSPC: "make room there",
    errno.EDQUOT: "make room there",
    errno.EROFS: f"expected a file system that is mounted writable; {_DISK}",
    errno.EIO: _DISK,
    errno.EISDIR: "a file belongs there: move that folder away",
}


class RenewalError(Exception):
    """Base of the foreseeable errors that end a call."""

    kind = ""
    """The kind of refusal, if the place where it was raised gives one (`refusals`)."""


class RefusedError(RenewalError):
    """Refused permanently by us, the EST server or the gateway: someone has to change something first."""


class RequestRefusedError(RefusedError):
    """The request file, an option or the configuration asks for something that cannot be done."""


class CertificateRefusedError(RefusedError):
    """The EST server issued a certificate that this device must not use."""


class ServerRefusedError(RefusedError):
    """A server gave a final answer that is no success."""

    def __init__(self, message: str, status: int | None = None) -> None:
        """Keep the HTTP `status`; None for a TLS alert."""
        super().__init__(message)
        self.status = status


class PendingError(RenewalError):
    """Cannot go on now; the same call may succeed later."""

    def __init__(self, message: str, not_before: datetime | None = None) -> None:
        """Keep `not_before`, the time (aware) until which a server asks to wait."""
        super().__init__(message)
        self.not_before = not_before


class PostponedError(PendingError):
    """A server asks to wait until a time."""


class ClockError(PendingError):
    """The clock of this device is wrong or not yet set."""


class OfflineError(PendingError):
    """There is no network at all: no route, or no name resolution."""


class UnreachableError(PendingError):
    """No connection to a server, or a broken one: the server or the network is down."""


class UntrustedError(PendingError):
    """A server presented a certificate that this device does not trust."""


class ServerBusyError(PendingError):
    """A server cannot do it now (429, 5xx), but has accepted our certificate."""


class ConnectionLostError(UnreachableError):
    """A connection broke: a reset, an early end, or an alert that is not about our certificate."""


class AnswerError(PendingError):
    """A server's answer cannot be read."""


class PageError(PendingError):
    """A web page or other text came in the place of an answer: of a captive portal, or of a server in front."""


class BusyError(PendingError):
    """Another process rotates on this device."""


FORESEEABLE = (RenewalError, TokenError, OSError)
"""Everything foreseeable that can end a call: never shown as a traceback."""


_KINDS = (
    (PinError, "pin"),
    (ModuleError, "module"),
    (ObjectMissingError, "objects"),
    (ObjectConflictError, "slots"),
    (UnsupportedError, "unsupported"),
    (ServerRefusedError, "server"),
)


@contextlib.contextmanager
def refusals(kind: str) -> Iterator[None]:
    """Give what is refused inside this kind, if it has none."""
    try:
        yield
    except RefusedError as error:
        error.kind = error.kind or kind
        raise


def kind_of_refusal(error: Exception) -> str:
    """Give a code for what was refused; it does not change with the words."""
    named = error.kind if isinstance(error, RenewalError) else ""
    return named or next((kind for known, kind in _KINDS if isinstance(error, known)), "configuration")


def is_final(error: Exception) -> bool:
    """Return whether someone has to change something before the same call can succeed."""
    return isinstance(error, RefusedError) or (isinstance(error, TokenError) and error.final)


def until(error: Exception) -> str | None:
    """Return the time (RFC 3339) until which waiting is necessary, if it is known."""
    when = error.not_before if isinstance(error, PendingError) else None
    return None if when is None else when.isoformat(timespec="seconds")


def describe(error: Exception) -> str:
    """Say for a person what an error says; for an OSError, what failed, on which file, and what to do."""
    said = str(error)
    if isinstance(error, OSError) and error.strerror:
        said = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
        advice = _ADVICE.get(error.errno or 0)
        said = f"{said}; {advice}" if advice else said
    return harmless(said)


def harmless(text: str) -> str:
    r"""Return a text as one line without control characters, line ends, changes of direction or surrogates (`\x1b`).

    Servers, certificates, files and tokens choose part of each message, so every message passes here on its way to a
    console, the log, an event or systemd.
    """
    text = text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}…"
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode("ascii") for each in text)
