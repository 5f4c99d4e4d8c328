"""Look: express the journal, the configuration and the memory of this call in the terms of the rules."""

from datetime import UTC, datetime, timedelta

from handler.backoff import MAX_ASKED
from handler.device import completed_rotations
from handler.device.hooks import hooks_in
from handler.device.request import RotationRequest
from handler.errors import PendingError, kind_of_refusal
from handler.journal.pending import EST, GATEWAY, is_lost
from handler.journal.rotation_state import ANNOUNCED, PROVED, SWITCHED, RotationState

from .context import Context
from .found import GOING_BACK, Before, Found, Kept, Mark, Named, Sight, Stage, Taken, Way, Wish
from .phases.enrolment import has_ended
from .phases.takeover import NAME
from .rules import Action

BY_HAND = "given up by hand"
SUPERSEDED = "superseded by "
WITHDRAWN = "the request was removed from the configuration"
_MARKS = {BY_HAND: Mark.BY_HAND, WITHDRAWN: Mark.WITHDRAWN}
_STAGES = (Stage.ENROL, Stage.ANNOUNCE, Stage.PREPARE, Stage.MOVE, Stage.SWITCH, Stage.PROVE, Stage.TELL, Stage.TIDY)
"""The next stage, by the number of completed steps."""


def look(context: Context) -> Found:
    """Return what a decision depends on. Raises RequestRefusedError if the configuration cannot be read."""
    memory, facts, state = context.memory, context.journal.facts, context.journal.facts.rotation
    named = Named.OLD if state is None else named_by_configuration(context, state)
    mark, known = mark_of(state), state is not None and state.locked
    way = memory.way if mark in GOING_BACK else Way.UNKNOWN
    if mark in GOING_BACK and named is Named.OLD and not known:
        way = Way.BACK
    stage = _stage(state, named)
    proving = stage is Stage.PROVE and mark is Mark.NONE
    return Found(
        wish=memory.wish,
        before=_before(context),
        stage=stage,
        named=named,
        known=known,
        mark=mark,
        way=way,
        new=memory.new if proving else Sight.UNKNOWN,
        old=memory.old if proving else Taken.UNKNOWN,
        shown=is_shown(context),
        kept=Kept.NONE if facts.kept is None or state is not None else memory.kept,
        wanted=wanted(context) is not None,
        hooks=_are_hooks_due(context, stage, way),
        waits=context.by_fioconfig and (memory.told or context.switched),
        call=memory.call,
        events=not memory.delivered and bool(facts.events),
        lost=state is None and _is_lost_journal_due(context),
        refusal=memory.refused is not None and _is_news(context, *memory.refused),
    )


def wanted(context: Context) -> RotationRequest | None:
    """Return the rotation to start when nothing else is pending."""
    memory = context.memory
    if memory.wish is Wish.ROTATE:
        return memory.request if memory.noted else None
    return context.journal.facts.requested if memory.wish in {Wish.RESUME, Wish.UNATTENDED} else None


def is_shown(context: Context) -> bool:
    """Tell whether the gateway may have seen a certificate of the new key, in this rotation or an earlier one."""
    state, kept = context.journal.facts.rotation, context.journal.facts.kept
    if state is None:
        return False
    return state.reported or state.step >= PROVED or (kept is not None and kept.rotation.new == state.new)


def named_by_configuration(context: Context, state: RotationState) -> Named:
    """Return which identity the configuration on disk names."""
    names = context.device.names_in_use(state.old, state.new)
    return {state.old: Named.OLD, state.new: Named.NEW}.get(names, Named.OTHER)


def mark_of(state: RotationState | None) -> Mark:
    """Return whether a rotation rolls back, and why, or was refused."""
    if state is None or (state.rollback is None and state.refused is None):
        return Mark.NONE
    if state.rollback is None:
        return Mark.REFUSED
    if state.rollback.startswith(SUPERSEDED):
        return Mark.SUPERSEDED
    return _MARKS.get(state.rollback, Mark.TAKEN_BACK)


def why_early(context: Context) -> PendingError | None:
    """Say why a server must not be contacted yet; None if it may be, or if a person asks.

    A time more than a day away means that the clock is wrong: no server is granted that much.
    """
    memory, facts = context.memory, context.journal.facts
    waiting, state, request = facts.waiting, facts.rotation, memory.request
    again = request is not None and request in (state and state.request, facts.requested)
    is_asked = memory.wish not in {Wish.UNATTENDED, Wish.REFUSED} and not (context.by_fioconfig and again)
    if is_asked or waiting is None or waiting.until is None or waiting.kind not in {EST, GATEWAY}:
        return None
    moment, now = datetime.fromisoformat(waiting.until), datetime.now(UTC)
    if not now < moment <= now + timedelta(seconds=MAX_ASKED):
        return None
    return PendingError(f"{waiting.reason}; not contacting it yet", moment)


def _is_news(context: Context, rotation_id: str, error: Exception) -> bool:
    """Tell whether a refusal is to be reported: once, and not as the end of a rotation that goes on or is complete."""
    state = context.journal.facts.rotation
    if Action.REPORT in context.memory.done or (state is not None and state.rotation_id == rotation_id):
        return False
    if rotation_id in completed_rotations.rotation_ids(context.device.storage):
        return False
    return not context.journal.history.knows(rotation_id, kind_of_refusal(error))


def _before(context: Context) -> Before:
    memory = context.memory
    if Action.TAKE_OVER not in memory.done and (context.device.storage / NAME).exists():
        return Before.FOREIGN
    if not memory.noted and memory.wish in {Wish.ROTATE, Wish.ABORT, Wish.WITHDRAWN}:
        return Before.UNNOTED
    return Before.EARLY if memory.early else Before.READY


def _stage(state: RotationState | None, named: Named) -> Stage:
    """Return the stage by the journal. The new certificate may have expired since it was issued."""
    if state is None:
        return Stage.NONE
    if state.step < SWITCHED and named is Named.OLD and (state.certificate is None or has_ended(state)):
        return Stage.ENROL
    if state.step == PROVED and state.files_left is not None:
        return Stage.FOLLOW
    return _STAGES[min(state.step, ANNOUNCED)]


def _are_hooks_due(context: Context, stage: Stage, way: Way) -> bool:
    """Tell whether others are to be told: once the new identity is proved, or was in use and is not any more."""
    back = way is Way.BACK and context.rotation.step >= SWITCHED
    return context.memory.hooks is None and (back or stage is Stage.TELL) and bool(hooks_in(context.services.hooks))


def _is_lost_journal_due(context: Context) -> bool:
    memory = context.memory
    if memory.done & {Action.MEND, Action.BEGIN, Action.TIDY, Action.DROP, Action.GIVE_UP}:
        return False
    if memory.wish is Wish.UNATTENDED:
        return context.journal.broken.exists()
    return memory.wish in {Wish.RESUME, Wish.OFFLINE} and is_lost(context.device.storage)
