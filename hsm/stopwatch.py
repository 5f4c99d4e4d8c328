"""The time that this process has spent in tokens, which a time limit for the network ignores. Loads no PKCS#11."""

import time


class Stopwatch:
    """Adds up the time between `start` and `stop`, which may be nested; one thread at a time calls them."""

    def __init__(self) -> None:
        self._spent = 0.0
        self._since: float | None = None
        self._depth = 0

    @property
    def seconds(self) -> float:
        """Seconds so far, the current operation included. For any thread."""
        since = self._since
        return self._spent + (0.0 if since is None else time.monotonic() - since)

    def start(self) -> None:
        """Start counting."""
        self._since = self._since or time.monotonic()
        self._depth += 1

    def stop(self) -> None:
        """Stop counting."""
        self._depth -= 1
        if self._depth == 0:
            spent = self.seconds
            self._since, self._spent = None, spent


TOKENS = Stopwatch()
"""The time spent in PKCS#11 modules; one for the process, like their lock."""
