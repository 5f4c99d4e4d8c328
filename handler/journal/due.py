"""Whether the daemon has something to do."""

from datetime import UTC, datetime
from typing import Protocol

WATCHED = 24 * 3600.0
"""Seconds after a roll-back in which the daemon checks whether the gateway accepts the old identity."""


class Unfinished(Protocol):
    """The part of a rotation's state that decides this."""

    @property
    def locked(self) -> bool: ...  # noqa: D102

    @property
    def refused(self) -> str | None: ...  # noqa: D102


def is_due(rotation: Unfinished | None, *, requested: bool, offered: bool, kept_since: str | None) -> bool:
    """Tell whether the daemon has something to do.

    A refused rotation continues only if it has to be cleaned up, and blocks a requested one otherwise. `offered`: there
    are events that the gateway does not permanently refuse. `kept_since`: time of the roll-back (RFC 3339).
    """
    if rotation is None:
        return requested or offered or (kept_since is not None and _is_watched(kept_since))
    return rotation.refused is None or not rotation.locked or offered


def _is_watched(since: str) -> bool:
    """Tell whether that is less than a day ago, in either direction: the clock may be wrong."""
    return abs(datetime.now(UTC).timestamp() - datetime.fromisoformat(since).timestamp()) < WATCHED
