"""Whether there is anything to do that nobody has to ask for: what the daemon wakes for."""

from datetime import UTC, datetime
from typing import Protocol

WATCHED = 24 * 3600.0
"""Seconds for which the daemon looks whether the gateway still takes the identity that was rolled back to."""


class Unfinished(Protocol):
    """What a rotation's state says of whether it goes on by itself."""

    @property
    def locked(self) -> bool: ...  # noqa: D102

    @property
    def refused(self) -> str | None: ...  # noqa: D102


def is_due(rotation: Unfinished | None, *, requested: bool, offered: bool, kept_since: str | None) -> bool:
    """Tell whether the daemon has something to do.

    A refused rotation goes on only where it has to be cleaned up; behind one that does not, nothing is begun.
    `offered`: events wait that the gateway does not refuse for good. `kept_since`: when a rotation was rolled back
    (RFC 3339).
    """
    if rotation is None:
        return requested or offered or (kept_since is not None and _is_watched(kept_since))
    return rotation.refused is None or not rotation.locked or offered


def _is_watched(since: str) -> bool:
    """Tell whether that is not longer ago than a day, by a clock that may be wrong."""
    return abs(datetime.now(UTC).timestamp() - datetime.fromisoformat(since).timestamp()) < WATCHED
