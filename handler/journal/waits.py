"""What a rotation waits for after an error, and how long the daemon waits."""

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
    """Return the `Waiting.kind` of an error; None for a simple retry. `enrols`: only the EST server was contacted."""
    if isinstance(error, PostponedError):
        return EST if enrols else GATEWAY
    if is_final(error) and not isinstance(error, TokenError):
        return EVENTS
    # A time without a server is the start of a certificate's validity.
    return next((kind for known, kind in _KINDS if isinstance(error, known)), CLOCK if until(error) else None)


def delay_of(pending: Pending, backoff: Backoff, attempts: int, asked: float | None) -> float:
    """Return the seconds to wait after `attempts` consecutive calls; `asked` as in Backoff.delay."""
    delay = backoff.delay(pending.device or _machine_id(), pending.rotation_id or "", attempts, asked)
    waits_for_token = pending.waiting is not None and pending.waiting.kind == TOKEN
    return min(delay, TOKEN_LONGEST) if waits_for_token else delay


def _machine_id() -> str:
    """Return an id of this machine, or ""."""
    with contextlib.suppress(OSError):
        return Path("/etc/machine-id").read_text("ascii").strip()
    return ""
