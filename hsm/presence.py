"""Waits for a token that is missing yet: its driver loads late, it is plugged in or initialised late.

The kernel reports a new device (udev), only the module knows whether the token is in it. So the module is asked after
each event, and every few seconds too: a token that is initialised late makes no event, and a container gets none.

A refused PIN ends the wait: it is not tried twice. A token without a user PIN is about to be initialised.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable

from pkcs11 import exceptions as p11

from hsm.errors import TokenError
from hsm.token import Token

LOOK_EVERY = 5.0
"""Seconds between two looks without any event."""

_log = logging.getLogger(__name__)


def wait_for_token(token: Token, seconds: float, *, look_every: float = LOOK_EVERY) -> None:
    """Open the token, waiting `seconds` for it at most (0: not at all; inf: forever).

    Raises hsm.errors.TokenError: a final one at once, any other after the last look.
    """
    deadline = time.monotonic() + seconds
    wait: Callable[[float], object] | None = None
    while not _is_there(token, last=time.monotonic() >= deadline):
        if wait is None:
            _log.warning("Token %r is not there yet: waiting for it, %g s at most.", token.label, seconds)
            # Listen before the next look, so that no event is missed between the two.
            wait = _listen()
        else:
            wait(min(max(deadline - time.monotonic(), 0.0), look_every))
    if wait is not None:
        _log.info("Token %r is there.", token.label)


def _is_there(token: Token, *, last: bool) -> bool:
    """Return whether the token opens. Raises its TokenError if waiting cannot help, or this is the last look."""
    try:
        token.open()
    except TokenError as error:
        being_made = isinstance(error.__cause__, p11.UserPinNotInitialized)
        if last or (error.final and not being_made):
            raise
        if being_made:
            # SoftHSM does not see the PIN that another process sets until it is restarted.
            with contextlib.suppress(TokenError):
                token.reinitialize()
        _log.debug("Not yet: %s", error)
        return False
    return True


def _listen() -> Callable[[float], object]:
    """Return a function that waits, so many seconds at most, for a device that may bring a token."""
    try:
        from hsm.devices import Devices  # noqa: PLC0415 - takes 20 ms, needed only here

        return Devices().appeared
    except (ImportError, OSError) as error:
        _log.warning("udev cannot be used (%s): looking for the token every few seconds only.", error)
        return threading.Event().wait
