"""When to try again: the policy of the daemon, so that ten thousand devices do not come back all at once.

The jitter is drawn from the device's id and the ROTATIONID: devices spread, and one device, asked twice, answers alike.
"""

import random
from dataclasses import dataclass

MAX_ASKED = 24 * 3600.0
"""Seconds: no server has this device wait longer than a day."""
TOKEN_LONGEST = 300.0
"""Seconds between two looks for a token that is away: one that is initialised late makes no event of udev."""


@dataclass(frozen=True)
class Backoff:
    """Waits (seconds) between attempts, from `first` to `longest`."""

    first: float = 30.0
    longest: float = 3600.0

    def delay(self, device: str, rotation_id: str, attempt: int, asked: float | None = None) -> float:
        """Give the seconds to wait after the `attempt`-th call in a row (from 1) that came no further.

        The wait is drawn between `first` and a bound that doubles from twice that to `longest`. `asked`: the seconds
        that a server asks to wait (Retry-After): kept, and spread over as long again, or that bound where it is less,
        because every device was told the same.
        """
        bound = min(self.longest, 2 * self.first * 2.0 ** min(attempt - 1, 30))
        drawn = _share(device, rotation_id, attempt)
        if asked is not None:
            asked = min(max(self.first, asked), MAX_ASKED)
            return asked + drawn * min(bound, max(2 * self.first, asked))
        return self.first + drawn * max(0.0, bound - self.first)


def delay(device: str, rotation_id: str, attempt: int, asked: float | None = None) -> float:
    """Give the wait of the policy as it is shipped."""
    return Backoff().delay(device, rotation_id, attempt, asked)


def _share(device: str, rotation_id: str, attempt: int) -> float:
    """Draw from [0, 1), evenly over devices."""
    return random.Random(f"{device} {rotation_id} {attempt}").random()  # noqa: S311 - no secret, the same every time
