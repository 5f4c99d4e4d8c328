"""How long this process's tokens took so far: a time limit for the network does not count that. Loads no PKCS#11."""

import time


class Stopwatch:
    """Adds up the time between `start` and `stop`, which may be nested. One thread at a time starts and stops it."""

    def __init__(self) -> None:
        self._before = 0.0
        self._since: float | None = None
        self._depth = 0

    @property
    def seconds(self) -> float:
        """Seconds so far, those of what goes on right now included. For any thread."""
        since = self._since
        return self._before + (0.0 if since is None else time.monotonic() - since)

    def start(self) -> None:
        """Begin to count."""
        self._depth += 1
        if self._depth == 1:
            self._since = time.monotonic()

    def stop(self) -> None:
        """Count no longer."""
        self._depth -= 1
        if self._depth == 0 and self._since is not None:
            before, self._since = time.monotonic() - self._since, None
            self._before += before


TOKENS = Stopwatch()
"""What was spent in PKCS#11 modules; one for the process, as their lock is."""
