"""How a call that could not end is explained to a person, and which exit status it gets."""

import contextlib

from handler.console.output import say
from handler.console.settings import Settings
from handler.errors import BusyError, RenewalError, describe, is_final
from handler.exit_status import PENDING, REFUSED
from handler.journal.pending import is_there

GOES_ON, NOT_BEGUN = "; `renew-client-cert resume` goes on", "; nothing was begun: call it again"


def explain(error: Exception, next_step: str, *, known: bool = False) -> int:
    """Say what ended the call and what goes on from here (`what_next`), and give the status for it.

    `known`: the reader sees the reason already; a refusal is said again, as somebody has to act.
    """
    pending = next_step == GOES_ON
    # Somebody has to act where a file may not be used, unless a rotation is under way, which is tried again.
    if is_final(error) or (isinstance(error, PermissionError) and not pending):
        say(f"refused: {describe(error)}")
        return REFUSED
    if isinstance(error, BusyError):
        next_step = ""  # it says so itself
    reason = "" if known else f": {describe(error)}"
    say(f"{'pending' if pending else 'not now'}{reason}{next_step}")
    return PENDING


def what_next(settings: Settings | None) -> str:
    """Say what goes on after a call that could not end: by what is in the journal now, not by how far it came."""
    with contextlib.suppress(RenewalError, OSError):
        if settings is not None and is_there(settings.storage_folder()):
            return GOES_ON
    return NOT_BEGUN
