"""What can end a call, in the words of the person who reads it.

Every message says what was expected, what was found and what to do next. No message holds a secret.
"""

import errno
from datetime import datetime

from hsm.errors import TokenError

_DISK = "look for its disk's errors in the kernel's log"
_ADVICE = {
    errno.EACCES: "run this as root",
    errno.ENOSPC: "make room there",
    errno.EDQUOT: "make room there",
    errno.EROFS: f"expected a file system that is mounted writable; {_DISK}",
    errno.EIO: _DISK,
}


class RenewalError(Exception):
    """Base of everything foreseeable that ends a call."""


class RefusedError(RenewalError):
    """Refused for good by us, the EST server or the gateway: somebody has to change something first."""


class RequestRefusedError(RefusedError):
    """The request file, an option or the configuration asks for something that cannot be done."""


class CertificateRefusedError(RefusedError):
    """The EST server issued a certificate that this device must not use."""


class ServerRefusedError(RefusedError):
    """A server gave a final answer other than the one hoped for."""

    def __init__(self, message: str, status: int | None = None) -> None:
        """Keep the HTTP `status`; None where the refusal came as a TLS alert."""
        super().__init__(message)
        self.status = status


class PendingError(RenewalError):
    """Cannot go on now; the same call may succeed later."""

    def __init__(self, message: str, not_before: datetime | None = None) -> None:
        """Keep `not_before`, the time (aware) before which a server asks not to come back."""
        super().__init__(message)
        self.not_before = not_before


class PostponedError(PendingError):
    """A server asks not to come back before a time."""


class ClockError(PendingError):
    """The clock of this device is wrong, or was not set yet."""


class OfflineError(PendingError):
    """There is no network at all: no route, or no name resolution."""


class UnreachableError(PendingError):
    """No connection to a server comes about, or it breaks off: the server, or the way to it, is down."""


class UntrustedError(PendingError):
    """A server presented a certificate that this device does not trust."""


class ServerBusyError(PendingError):
    """A server answered that it cannot do it now (429, 5xx): it is there, and has taken our certificate."""


class ConnectionLostError(UnreachableError):
    """A connection was there, and broke: a reset, the end before an answer, or an alert about nothing of ours."""


class AnswerError(PendingError):
    """What a server sent is no answer to what it was asked."""


class PageError(PendingError):
    """A web page came in the place of an answer: of a captive portal, or of what stands in front of the server."""


class BusyError(PendingError):
    """Another process rotates on this device."""


FORESEEABLE = (RenewalError, TokenError, OSError)
"""Everything that can end a call: said in words, never a traceback."""


def is_final(error: Exception) -> bool:
    """Tell whether somebody has to change something before the same call can succeed."""
    return isinstance(error, RefusedError) or (isinstance(error, TokenError) and error.final)


def until(error: Exception) -> str | None:
    """Give the time (RFC 3339) before which it is in vain to come back, where a server or the clock says one."""
    when = error.not_before if isinstance(error, PendingError) else None
    return None if when is None else when.isoformat(timespec="seconds")


def describe(error: Exception) -> str:
    """Say for a person what an error says; for an OSError, what failed, on which file, and what to do."""
    said = str(error)
    if isinstance(error, OSError) and error.strerror:
        said = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
        advice = _ADVICE.get(error.errno or 0)
        said = f"{said} ({advice})" if advice else said
    return harmless(said)


def harmless(text: str) -> str:
    r"""Give a text as one line that a terminal shows and never obeys.

    Servers, certificates, files and tokens choose part of what is said. Whatever is said passes here on its way to a
    console, the log, an event or systemd: what does not print (control characters, line ends, changes of direction,
    half a character) is escaped (`\x1b`).
    """
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode("ascii") for each in text)
