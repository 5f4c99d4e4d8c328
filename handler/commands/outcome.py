"""The message and the exit status of a call that could not finish."""

import contextlib

from handler.console.output import say
from handler.console.settings import Settings
from handler.errors import BusyError, PendingError, RenewalError, describe, is_final
from handler.exit_status import PENDING, REFUSED
from handler.journal.pending import is_there

GOES_ON, NOT_BEGUN = "; `renew-client-cert resume` continues it", "; nothing was started: run it again"


def explain(error: Exception, next_step: str, *, known: bool = False) -> int:
    """Say what ended the call, unless that is `known`, and what to do next (`what_next`); return the exit status."""
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


def what_next(settings: Settings | None) -> str:
    """Say how to continue after a call that could not finish, by what the journal holds now."""
    with contextlib.suppress(RenewalError, OSError):
        if settings is not None and is_there(settings.storage_folder()):
            return GOES_ON
    return NOT_BEGUN
