"""What an error has a rotation wait for, and until when the daemon waits."""

import contextlib
from pathlib import Path

from handler.backoff import TOKEN_LONGEST, Backoff
from handler.errors import (
    ClockError,
    OfflineError,
    PostponedError,
    ServerBusyError,
    UnreachableError,
    UntrustedError,
    is_final,
    until,
)
from hsm.errors import TokenError

from .pending import BUSY, CLOCK, EST, EVENTS, GATEWAY, NETWORK, TOKEN, UNREACHABLE, UNTRUSTED, Pending

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
    if is_final(error) and not isinstance(error, TokenError):
        return EVENTS
    # A time that no server asked for is that of a certificate's beginning.
    return next((kind for known, kind in _KINDS if isinstance(error, known)), CLOCK if until(error) else None)


def delay_of(pending: Pending, backoff: Backoff, attempts: int, asked: float | None) -> float:
    """Give the seconds that the daemon waits after the `attempts`-th call in a row; `asked` as in Backoff.delay."""
    delay = backoff.delay(pending.device or _machine_id(), pending.rotation_id or "", attempts, asked)
    waits_for_token = pending.waiting is not None and pending.waiting.kind == TOKEN
    return min(delay, TOKEN_LONGEST) if waits_for_token else delay


def _machine_id() -> str:
    """Give what tells this device from others; "" where nothing does."""
    with contextlib.suppress(OSError):
        return Path("/etc/machine-id").read_text("ascii").strip()
    return ""
