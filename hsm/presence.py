"""Waits for a token that is not there yet: a driver that loads late, a USB token, a token that is initialised late.

    wait_for_token(Token(module, label, pin), seconds=60)

The kernel says when a device appears (udev); only the module says whether the token is in it. So it is looked at
after each event that may have brought it, and every few seconds besides: a token that is initialised late makes no
event, and where udev cannot be listened to (a container) nothing else is left. Token.open() starts the module anew
where the token is missing, because some modules look for devices only then.

A PIN that is refused ends the wait: it is not tried twice. A token without a user PIN yet is about to be initialised.
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
    """Open the token as soon as it is there, and wait for that no longer than `seconds` (0: not at all; inf: forever).

    Raises hsm.errors.TokenError: at once what somebody has to mend first, else what the last look said.
    """
    if _is_there(token, last=seconds <= 0):
        return
    _log.warning("Token %r is not there yet: waiting for it, %g s at most.", token.label, seconds)
    deadline = time.monotonic() + seconds
    # Listening begins before the next look, so that no event falls between the two.
    wait = _listen()
    while True:
        remaining = deadline - time.monotonic()
        if _is_there(token, last=remaining <= 0):
            _log.info("Token %r is there.", token.label)
            return
        wait(min(max(remaining, 0.0), look_every))


def _is_there(token: Token, *, last: bool) -> bool:
    """Tell whether the token opens. Raises its TokenError where waiting is in vain, or this is the last look."""
    try:
        token.open()
    except TokenError as error:
        being_made = isinstance(error.__cause__, p11.UserPinNotInitialized)
        if last or (error.final and not being_made):
            raise
        if being_made:
            # SoftHSM does not see the PIN that another process sets now, until it is started anew.
            with contextlib.suppress(TokenError):
                token.reinitialize()
        _log.debug("Not yet: %s", error)
        return False
    return True


def _listen() -> Callable[[float], object]:
    """Give what waits, so many seconds at most, for a device that may bring a token."""
    try:
        from hsm.devices import Devices  # noqa: PLC0415 - 20 ms that only who waits has to spend

        return Devices().appeared
    except (ImportError, OSError) as error:
        _log.warning("Events of udev cannot be had (%s): the token is looked for every few seconds only.", error)
        return threading.Event().wait
