"""The time that a call has for the network."""

import time

from hsm.stopwatch import TOKENS

IN_ALL = 300.0
"""Seconds that a call may take with a slow token."""


class Deadline:
    """The moment by which a call has to end, on the monotonic clock.

    `seconds` are for the network: what a token takes for its operations does not count, up to `IN_ALL` for both.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._began = time.monotonic()
        self._token_before = TOKENS.seconds

    @property
    def remaining(self) -> float:
        """Seconds left, 0 when the time is up."""
        granted = self._seconds + TOKENS.seconds - self._token_before
        return max(0.0, min(granted, max(self._seconds, IN_ALL)) - (time.monotonic() - self._began))
