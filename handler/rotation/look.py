"""Says what is found, in the terms of the rules: from the journal, the configuration, and what this call remembers."""

from datetime import UTC, datetime, timedelta

from handler.backoff import MAX_ASKED
from handler.device import completed_rotations
from handler.device.request import RotationRequest
from handler.errors import kind_of_refusal
from handler.journal.pending import EST, GATEWAY
from handler.journal.rotation_state import ANNOUNCED, PROVED, SWITCHED, RotationState

from .context import Context
from .found import GOING_BACK, Before, Found, Kept, Mark, Named, Sight, Stage, Taken, Way, Wish
from .memory import Memory
from .phases.enrolment import has_ended
from .phases.lost_journal import LostJournal
from .phases.takeover import NAME
from .rules import Action

BY_HAND = "given up by hand"
SUPERSEDED = "superseded by "
WITHDRAWN = "the request was removed from the configuration"
_MARKS = {BY_HAND: Mark.BY_HAND, WITHDRAWN: Mark.WITHDRAWN}
_STAGES = (Stage.ENROL, Stage.ANNOUNCE, Stage.PREPARE, Stage.MOVE, Stage.SWITCH, Stage.PROVE, Stage.TELL, Stage.TIDY)
"""What comes next after that many steps."""


def look(context: Context, memory: Memory, lost_journal: LostJournal) -> Found:
    """Give what a decision depends on. Raises RequestRefusedError where the configuration cannot be read."""
    journal, state = context.journal, context.journal.rotation
    named = Named.OLD if state is None else named_by_configuration(context, state)
    mark, known = mark_of(state), state is not None and state.locked
    way = memory.way if mark in GOING_BACK else Way.UNKNOWN
    if mark in GOING_BACK and named is Named.OLD and not known:
        way = Way.BACK
    stage = _stage(state, named)
    proving = stage is Stage.PROVE and mark is Mark.NONE
    return Found(
        wish=memory.wish,
        before=_before(context, memory),
        stage=stage,
        named=named,
        known=known,
        mark=mark,
        way=way,
        new=memory.new if proving else Sight.UNKNOWN,
        old=memory.old if proving else Taken.UNKNOWN,
        shown=is_shown(context),
        kept=Kept.NONE if journal.kept is None or state is not None else memory.kept,
        wanted=wanted(context, memory) is not None,
        waits=context.by_fioconfig and (memory.told or context.switched),
        call=memory.call,
        events=not memory.delivered and bool(journal.undelivered()),
        lost=state is None and _is_lost_journal_due(memory, lost_journal),
        refusal=memory.refused is not None and _is_news(context, memory, *memory.refused),
    )


def wanted(context: Context, memory: Memory) -> RotationRequest | None:
    """Give the rotation that is to begin once nothing else is pending."""
    if memory.wish is Wish.ROTATE:
        return memory.request if memory.noted else None
    return context.journal.requested if memory.wish in {Wish.RESUME, Wish.UNATTENDED} else None


def is_shown(context: Context) -> bool:
    """Tell whether the gateway may have seen a certificate for the new key, in this rotation or an earlier one."""
    state, kept = context.journal.rotation, context.journal.kept
    if state is None:
        return False
    return state.reported or state.step >= PROVED or (kept is not None and kept.rotation.new == state.new)


def named_by_configuration(context: Context, state: RotationState) -> Named:
    """Say which identity the configuration on disk names."""
    names = context.device.names_in_use(state.old, state.new)
    return {state.old: Named.OLD, state.new: Named.NEW}.get(names, Named.OTHER)


def mark_of(state: RotationState | None) -> Mark:
    """Say whether a rotation goes back, and for whom, or was refused."""
    if state is None or (state.rollback is None and state.refused is None):
        return Mark.NONE
    if state.rollback is None:
        return Mark.REFUSED
    if state.rollback.startswith(SUPERSEDED):
        return Mark.SUPERSEDED
    return _MARKS.get(state.rollback, Mark.TAKEN_BACK)


def why_early(context: Context, memory: Memory) -> str | None:
    """Say why a server is to be left alone; None where it is not, or a person asks.

    A time more than a day away is none that a server was granted: the clock is off.
    """
    waiting, state, request = context.journal.waiting, context.journal.rotation, memory.request
    again = request is not None and request in (state and state.request, context.journal.requested)
    if not (memory.wish in {Wish.UNATTENDED, Wish.REFUSED} or (context.by_fioconfig and again)):
        return None
    if waiting is None or waiting.until is None or waiting.kind not in {EST, GATEWAY}:
        return None
    left = datetime.fromisoformat(waiting.until) - datetime.now(UTC)
    return waiting.reason if timedelta() < left <= timedelta(seconds=MAX_ASKED) else None


def _is_news(context: Context, memory: Memory, rotation_id: str, error: Exception) -> bool:
    """Tell whether a refusal is to be reported: once, and not as the end of a rotation that goes on or is complete."""
    state = context.journal.rotation
    if Action.REPORT in memory.done or (state is not None and state.rotation_id == rotation_id):
        return False
    if rotation_id in completed_rotations.rotation_ids(context.device.storage):
        return False
    return not context.journal.history.knows(rotation_id, kind_of_refusal(error))


def _before(context: Context, memory: Memory) -> Before:
    if Action.TAKE_OVER not in memory.done and (context.device.storage / NAME).exists():
        return Before.FOREIGN
    if not memory.noted and memory.wish in {Wish.ROTATE, Wish.ABORT, Wish.WITHDRAWN}:
        return Before.UNNOTED
    return Before.EARLY if memory.early else Before.READY


def _stage(state: RotationState | None, named: Named) -> Stage:
    """Give what comes next by the journal. The certificate may have ended since it was issued: it is evidence too."""
    if state is None:
        return Stage.NONE
    if state.step < SWITCHED and named is Named.OLD and (state.certificate is None or has_ended(state)):
        return Stage.ENROL
    if state.step == PROVED and state.files_left is not None:
        return Stage.FOLLOW
    return _STAGES[min(state.step, ANNOUNCED)]


def _is_lost_journal_due(memory: Memory, lost_journal: LostJournal) -> bool:
    if memory.done & {Action.MEND, Action.BEGIN, Action.TIDY, Action.DROP, Action.GIVE_UP}:
        return False
    if memory.wish is Wish.UNATTENDED:
        return lost_journal.due
    return memory.wish in {Wish.RESUME, Wish.OFFLINE} and lost_journal.exists
