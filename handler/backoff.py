"""When to try again: the policy of the daemon, so that ten thousand devices do not come back all at once.

The jitter is drawn from the device's id and the ROTATIONID: devices spread, and one device, asked twice, answers alike.
"""

import random

FIRST = 30.0
LONGEST = 3600.0
MAX_ASKED = 24 * 3600.0
"""No server has this device wait longer than a day."""


def delay(device: str, rotation_id: str, attempt: int, asked: float | None = None) -> float:
    """Give the seconds to wait after the `attempt`-th call in a row (from 1) that came no further.

    The wait is drawn between 30 s and a bound that doubles from one minute to one hour. `asked`: the seconds that a
    server asks to wait (Retry-After): kept, and spread by the same bound, because every device was told the same.
    """
    bound = min(LONGEST, 2 * FIRST * 2.0 ** min(attempt - 1, 10))
    drawn = _share(device, rotation_id, attempt)
    if asked is not None:
        return min(max(FIRST, asked), MAX_ASKED) + drawn * bound
    return FIRST + drawn * (bound - FIRST)


def _share(device: str, rotation_id: str, attempt: int) -> float:
    """Draw from [0, 1), evenly over devices."""
    return random.Random(f"{device} {rotation_id} {attempt}").random()  # noqa: S311 - no secret, the same every time
