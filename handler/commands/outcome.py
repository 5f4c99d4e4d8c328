"""The message and the exit status of a call that could not finish."""

import contextlib
from collections.abc import Callable

from handler.console.output import say
from handler.console.settings import Settings
from handler.errors import FORESEEABLE, BusyError, PendingError, RenewalError, describe, is_final
from handler.exit_status import PENDING, REFUSED
from handler.journal.pending import is_there

GOES_ON, NOT_BEGUN = "; `renew-client-cert resume` continues it", "; nothing was started: run it again"


def status_of(
    work: Callable[[], int], settings: Settings | None, shown: Callable[[], str | None] = lambda: None
) -> int:
    """Return the exit status of `work`; if something ends it, say what, and what to do next.

    `settings`: None for a command that only looks. `shown`: the reason that a person has already read, if any.
    """
    try:
        return work()
    except FORESEEABLE as error:
        return _explain(error, _what_next(settings), known=describe(error) == shown())
    except KeyboardInterrupt:
        say("interrupted" + _what_next(settings))
        return PENDING


def _explain(error: Exception, next_step: str, *, known: bool) -> int:
    pending = next_step == GOES_ON
    # A missing permission needs action, unless a rotation is pending, which is retried.
    if is_final(error) or (isinstance(error, PermissionError) and not pending):
        say("refused; correct that, then rotate again" if known else f"refused: {describe(error)}")
        return REFUSED
    if isinstance(error, BusyError):
        next_step = ""  # the error says it
    when = error.not_before if isinstance(error, PendingError) else None
    until = f", not before {when:%Y-%m-%d %H:%M:%S} UTC" if when and pending else ""
    reason = "" if known else f": {describe(error)}"
    say(f"{'pending' if pending else 'not now'}{until}{reason}{next_step}")
    return PENDING


def _what_next(settings: Settings | None) -> str:
    """Say how to continue, by what the journal holds now."""
    if settings is None:
        return ""
    with contextlib.suppress(RenewalError, OSError):
        if is_there(settings.storage_folder()):
            return GOES_ON
    return NOT_BEGUN
