"""When to retry, so that ten thousand devices do not come back at once.

Within a call a device waits with random jitter (`in_line`). Between calls the daemon waits with jitter derived from the
device's id and the ROTATIONID (`Backoff`), so that the result is always the same.
"""

import random
from collections.abc import Sequence
from typing import NamedTuple

MAX_ASKED = 24 * 3600.0
"""Seconds that a server can make this device wait at most."""
TOKEN_LONGEST = 300.0
"""Seconds between two looks for a missing token: late initialisation makes no udev event."""
OWN_SPREAD, ASKED_SPREAD = 0.5, 1.0
"""Maximum jitter as a share of our own delay, and of one that a server asked for and told other devices, too."""


class Turn(NamedTuple):
    """What a call does after a transient failure."""

    delay: float | None
    """Seconds until the next attempt; None if there is none."""
    wait: float | None = None
    """Seconds that this call waits for it; None if this call ends."""


def in_line(
    asked: float | None,
    delays: Sequence[float],
    retry: int,
    remaining: float,
    draw: random.Random = random.Random(),  # noqa: B008, S311 - one for the process
) -> Turn:
    """Decide whether this call waits before the `retry`-th repetition (from 0) of a request.

    `asked`: the seconds that the server asks to wait, but not less than `delays`. `remaining`: the seconds left in the
    call; a wait that a server asked for must fit with its whole jitter, or all devices would retry in the last second.
    """
    own = delays[retry] if retry < len(delays) else None
    if not asked and own is None:
        return Turn(None)
    delay = max(asked or 0.0, own or 0.0)
    most = delay * (1 + (ASKED_SPREAD if asked else OWN_SPREAD))
    if delay >= remaining or (asked and most > remaining):
        return Turn(delay)
    return Turn(delay, min(draw.uniform(delay, most), remaining))


class Backoff(NamedTuple):
    """Waits (seconds) between attempts, from `first` to `longest`."""

    first: float = 30.0
    longest: float = 3600.0

    def delay(self, device: str, rotation_id: str, attempt: int, asked: float | None = None) -> float:
        """Return the seconds to wait after the `attempt`-th consecutive call (from 1) without progress.

        The wait is drawn between `first` and a bound that doubles from twice `first` to `longest`. `asked`: the seconds
        that a server asks to wait (Retry-After), plus jitter of the same size (twice `first` to `longest`), because
        every device was told the same.
        """
        drawn = _share(device, rotation_id, attempt)
        if asked is not None:
            asked = min(max(self.first, asked), MAX_ASKED)
            return asked + drawn * min(self.longest, max(2 * self.first, asked))
        bound = min(self.longest, 2 * self.first * 2.0 ** min(attempt - 1, 30))
        return self.first + drawn * max(0.0, bound - self.first)


def _share(device: str, rotation_id: str, attempt: int) -> float:
    """Return a number in [0, 1), evenly distributed over devices."""
    return random.Random(f"{device} {rotation_id} {attempt}").random()  # noqa: S311 - no secret, the same every time
