"""What an error has a rotation wait for."""

from handler.errors import (
    ClockError,
    OfflineError,
    PostponedError,
    ServerBusyError,
    UnreachableError,
    UntrustedError,
    until,
)
from hsm.errors import TokenError

from .pending import BUSY, CLOCK, EST, GATEWAY, NETWORK, TOKEN, UNREACHABLE, UNTRUSTED

_KINDS = (
    (TokenError, TOKEN),
    (OfflineError, NETWORK),
    (ClockError, CLOCK),
    (UntrustedError, UNTRUSTED),
    (UnreachableError, UNREACHABLE),
    (ServerBusyError, BUSY),
)


def kind_of(error: Exception, *, enrols: bool) -> str | None:
    """Give the kind (`Waiting.kind`); None if the call is only tried again. `enrols`: only the EST server was asked."""
    if isinstance(error, PostponedError):
        return EST if enrols else GATEWAY
    # A time that no server asked for is that of a certificate's beginning.
    return next((kind for known, kind in _KINDS if isinstance(error, known)), CLOCK if until(error) else None)
