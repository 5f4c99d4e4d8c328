"""The time that this process has spent in tokens, which a time limit for the network ignores. Loads no PKCS#11."""

import time


class Stopwatch:
    """Adds up the time between `start` and `stop`, which may be nested; one thread at a time calls them."""

    def __init__(self) -> None:
        self._before = 0.0
        self._since: float | None = None
        self._depth = 0

    @property
    def seconds(self) -> float:
        """Seconds so far, the current operation included. For any thread."""
        since = self._since
        return self._before + (0.0 if since is None else time.monotonic() - since)

    def start(self) -> None:
        """Start counting."""
        self._depth += 1
        if self._depth == 1:
            self._since = time.monotonic()

    def stop(self) -> None:
        """Stop counting."""
        self._depth -= 1
        if self._depth == 0 and self._since is not None:
            before, self._since = time.monotonic() - self._since, None
            self._before += before


TOKENS = Stopwatch()
"""The time spent in PKCS#11 modules; one for the process, like their lock."""
