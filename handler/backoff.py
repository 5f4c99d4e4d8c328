"""When to try again, so that ten thousand devices do not come back all at once.

Within a call, a device waits in line (`in_line`), its jitter drawn by chance. Between calls the daemon waits
(`Backoff`), its jitter drawn from the device's id and the ROTATIONID: asked twice, a device answers alike.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

MAX_ASKED = 24 * 3600.0
"""Seconds: no server has this device wait longer than a day."""
TOKEN_LONGEST = 300.0
"""Seconds between two looks for a token that is away: one that is initialised late makes no event of udev."""
OWN_SPREAD, ASKED_SPREAD = 0.5, 1.0
"""Share of a wait in line by which it may be longer: many devices may have failed at once, and been told the same."""


@dataclass(frozen=True)
class Turn:
    """What a call does after a failure that may pass."""

    delay: float | None
    """Seconds before which it is not to be tried again; None if it is tried no more."""
    wait: float | None = None
    """Seconds to wait in line for that; None if this call ends, and a later one comes back."""


def in_line(
    asked: float | None,
    delays: Sequence[float],
    retry: int,
    remaining: float,
    draw: random.Random = random.Random(),  # noqa: B008, S311 - one for the process
) -> Turn:
    """Decide between waiting in line and coming back later, before the `retry`-th repetition (from 0) of a request.

    `asked`: the seconds that the server asks to wait; 0 is no reason to come sooner than `delays` say. `remaining`:
    the seconds that the call may still take. What a server asked for has to fit with all of its spread: those who wait
    for the last second of their time would wait for the same one.
    """
    own = delays[retry] if retry < len(delays) else None
    if not asked and own is None:
        return Turn(None)
    delay = max(asked or 0.0, own or 0.0)
    most = delay * (1 + (ASKED_SPREAD if asked else OWN_SPREAD))
    if delay >= remaining or (asked and most > remaining):
        return Turn(delay)
    return Turn(delay, min(draw.uniform(delay, most), remaining))


@dataclass(frozen=True)
class Backoff:
    """Waits (seconds) between attempts, from `first` to `longest`."""

    first: float = 30.0
    longest: float = 3600.0

    def delay(self, device: str, rotation_id: str, attempt: int, asked: float | None = None) -> float:
        """Return the seconds to wait after the `attempt`-th call in a row (from 1) that came no further.

        The wait is drawn between `first` and a bound that doubles from twice that to `longest`. `asked`: the seconds
        that a server asks to wait (Retry-After): kept, and spread over as long again (twice `first` at least, `longest`
        at most) from the first time on, because every device was told the same.
        """
        drawn = _share(device, rotation_id, attempt)
        if asked is not None:
            asked = min(max(self.first, asked), MAX_ASKED)
            return asked + drawn * min(self.longest, max(2 * self.first, asked))
        bound = min(self.longest, 2 * self.first * 2.0 ** min(attempt - 1, 30))
        return self.first + drawn * max(0.0, bound - self.first)


def _share(device: str, rotation_id: str, attempt: int) -> float:
    """Draw from [0, 1), evenly over devices."""
    return random.Random(f"{device} {rotation_id} {attempt}").random()  # noqa: S311 - no secret, the same every time
