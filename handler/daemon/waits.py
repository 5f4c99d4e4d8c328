"""What the daemon waits for, and until when."""

import time

from handler.journal.pending import CLOCK, EST, GATEWAY, NETWORK, TOKEN, Pending, Waiting


def words(pending: Pending, attempt: float) -> str:
    """Say what the daemon waits for. `attempt`: the time of the next attempt (seconds since 1970)."""
    waiting, at = pending.waiting, time_of_day(attempt)
    if waiting is None:
        return f"next attempt at {at}" + (f": {pending.problem}" if pending.problem else "")
    if waiting.kind in {EST, GATEWAY} and waiting.moment and seconds_until(waiting):
        server = "EST server" if waiting.kind == EST else "device gateway"
        return f"{server} asks to come back at {time_of_day(waiting.moment)}"
    if waiting.kind == CLOCK:  # a wrong clock cannot tell the time of the next attempt
        return f"waiting for {waiting.what}"
    if waiting.kind in {TOKEN, NETWORK}:
        return f"waiting for {waiting.what}, next attempt at {at}"
    return f"next attempt at {at}: {waiting.reason}"


def waits_for_token(pending: Pending) -> bool:
    """Tell whether a token is what it waits for."""
    return pending.waiting is not None and pending.waiting.kind == TOKEN


def seconds_until(waiting: Waiting | None) -> float | None:
    """Return the seconds until `waiting.until`; None if there is no such time or it has passed."""
    moment = waiting.moment if waiting else None
    return None if moment is None or moment <= time.time() else moment - time.time()


def clock() -> float:
    """Return how far the wall clock is ahead of the monotonic clock (seconds)."""
    return time.time() - time.monotonic()


def time_of_day(moment: float) -> str:
    """Format a moment (seconds since 1970) as a time of day in UTC, with the date unless it is today."""
    then, now = time.gmtime(moment), time.gmtime()
    return time.strftime("%H:%M UTC" if then[:3] == now[:3] else "%Y-%m-%d %H:%M UTC", then)
