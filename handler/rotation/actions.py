"""One function per action of the rules. Each does one thing and journals it; none decides what comes next."""

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from handler.crypto.names import common_name
from handler.device import completed_rotations
from handler.device.request import RotationRequest
from handler.errors import (
    FORESEEABLE,
    PendingError,
    RequestRefusedError,
    describe,
    is_final,
)
from handler.journal.events import STARTED
from handler.journal.rotation_state import PROVED, SWITCHED, RotationState

from . import deliveries, fioconfig
from .context import Context
from .found import Call, Named, Way, Wish
from .look import BY_HAND, SUPERSEDED, WITHDRAWN, named_by_configuration, wanted
from .phases import completion, endings, lost_journal, proof
from .phases.preflight import check_before_anything_changes, report_refusal
from .phases.steps import STEPS, Step, run_step, settle, settle_back, switch
from .phases.takeover import take_over
from .rules import Action

log = logging.getLogger(__name__)


def act(context: Context, action: Action) -> None:
    """Perform one action. Raises RefusedError, PendingError, hsm.errors.TokenError, OSError."""
    context.memory.done.add(action)
    if action in WITH_STORE:
        _open_store(context)
        WITH_STORE[action](context)
    else:
        OTHERS[action](context)


def _open_store(context: Context) -> None:
    """Open the key store for the ids of the pending rotation; a kept key pair stays where it is."""
    state, kept = context.rotation, context.journal.facts.kept
    request, reuses = state.request, kept is not None and kept.rotation.new == state.new
    context.device.open_store(*(() if reuses else (request.key_ids, request.certificate_ids)))


# The request


def _note(context: Context) -> None:
    """Journal what this call is for, so that a power cut does not lose it."""
    memory, journal = context.memory, context.journal
    state, request = journal.facts.rotation, memory.request
    memory.noted = True
    if request is None:
        memory.changed = journal.facts.requested is not None
        journal.request(None)
    elif state is not None and state.rotation_id == request.rotation_id:
        if state.locked or state.refused is None:  # otherwise it is dropped and starts again
            memory.request = None
        journal.record(replace(state, request=request))  # ESTSERVER may have been corrected
        if context.by_fioconfig:  # it requests this one again, so no other one is requested
            journal.request(memory.request)
    elif request.rotation_id in completed_rotations.rotation_ids(context.device.storage):
        memory.request = None
    elif state is not None or journal.facts.kept is not None:  # it has to survive until its turn
        journal.request(request)


def _wait(context: Context) -> None:
    assert context.memory.early is not None  # noqa: S101 - the rules make sure of it
    raise context.memory.early


def _begin(context: Context) -> None:
    """Check everything that can be refused before anything changes, then start the rotation in the journal."""
    request = wanted(context)
    assert request is not None  # noqa: S101 - the rule asks for one
    state = _checked(context, request)
    context.memory.request = None
    context.journal.record(state, context.events(request.rotation_id).make(STARTED), taken=True)


def _checked(context: Context, request: RotationRequest) -> RotationState:
    """Check a request before anything changes, note a failure, and return how its rotation starts."""
    device, journal = context.device, context.journal
    is_next = journal.facts.rotation is None
    try:
        unmended = lost_journal.repair(context) if is_next else None
        if unmended is not None and not is_final(unmended):
            raise unmended
        device.open_store(request.key_ids, request.certificate_ids)
        old = device.names_in_use()
        new = check_before_anything_changes(device, context.local_config, context.connections)
        if unmended is not None:
            if device.store.find_key(new.key) is not None:
                raise unmended  # the new key would replace one that may still be needed
            log.warning(lost_journal.LEFTOVERS, describe(unmended))
        journal.name_device(common_name(device.store.certificate(old.certificate).subject))
        state = RotationState(request, old, new)
        return proof.with_kept_key(context, state) if is_next else state
    except FORESEEABLE as error:
        if not is_final(error):
            journal.request(request)
        else:
            if journal.facts.requested == request:
                journal.request(None)
            context.memory.refused = request.rotation_id, error
        raise


# Forward


def _step(step: Step, context: Context) -> None:
    state = context.rotation
    if step.number == SWITCHED:
        # From the switch on, nothing but the proof may show the gateway a certificate first.
        deliveries.end(context)
    elif not context.device.is_slow:  # otherwise several handshakes would wait for one token
        deliveries.begin(context, state.old)
        if step is STEPS[Action.ENROL]:
            context.connections.prepare_gateway(state.old)
    run_step(context, step, is_new_in_use=named_by_configuration(context, state) is Named.NEW)
    if context.beside is not None:
        context.beside.notify()


def _switch_again(context: Context) -> None:
    log.warning("the configuration names the old identity again: switching to the new one")
    state = fioconfig.hold(context)
    if state.step > PROVED:  # its users may have loaded the old one: restart them again
        context.record(replace(state, step=PROVED))
    switch(context)


# Back


def _mark(context: Context) -> None:
    """Journal that the rotation rolls back, and why."""
    memory, state, other = context.memory, context.rotation, wanted(context)
    reason = BY_HAND if memory.wish is Wish.ABORT else WITHDRAWN
    if other is not None:
        if memory.failure is None:
            _checked(context, other)  # a refused request touches no pending rotation
        reason = f"{SUPERSEDED}{other.rotation_id}{f': {memory.failure}' if memory.failure else ''}"
        memory.refused_before, memory.failure, memory.call = memory.failure, None, Call.GOES_ON
    memory.way = Way.UNKNOWN
    context.record(replace(state, rollback=reason, refused=None))


def _unmark(context: Context) -> None:
    """Continue with the new identity: the old one can no longer be used."""
    state, error = context.rotation, context.memory.refused_before
    named_old = named_by_configuration(context, state) is Named.OLD
    if named_old:
        state = fioconfig.hold(context)
    if state.step >= SWITCHED:
        switch(context)
    elif named_old:
        settle_back(context)  # a power cut may have interrupted going back
    context.record(replace(state, rollback=None, refused=None if error is None else describe(error)))
    if error is not None:
        raise error
    closed = context.memory.why_closed
    if context.memory.wish is Wish.ABORT:
        _refuse_abort(context, closed)
    raise PendingError(f"cannot roll back ({state.rollback}): {closed}; trying the new certificate again")


def _refuse_abort(context: Context, closed: str = "the device gateway has accepted the new certificate") -> None:
    raise RequestRefusedError(
        f"rotation {context.rotation.rotation_id} is past the point of no return: {closed}; "
        "`renew-client-cert resume` finishes it"
    )


# Without a network, and without a journal


def _make_whole(context: Context) -> None:
    memory = context.memory
    memory.call = Call.ENDS
    if context.journal.facts.rotation is None:
        memory.changed = proof.settle_kept(context)
        return
    _open_store(context)
    if named_by_configuration(context, context.rotation) is Named.NEW:
        settle(context)
    else:
        memory.changed = settle_back(context)


WITH_STORE: dict[Action, Callable[[Context], None]] = {
    **{action: partial(_step, step) for action, step in STEPS.items()},
    Action.DROP: endings.end,
    Action.ASK: endings.ask,
    Action.UNMARK: _unmark,
    Action.GO_BACK: endings.go_back,
    Action.SWITCH_AGAIN: _switch_again,
    Action.PROVE: proof.prove,
    Action.ASK_OLD: proof.ask_old,
    Action.RECORD_PROOF: proof.record,
    Action.KEEP: partial(endings.end, keep=True),
    Action.FOLLOW: completion.bring_files_along,
    Action.TELL: completion.tell_users,
    Action.TIDY: completion.tidy,
}
"""Actions for which the key store is opened with the ids of the pending rotation."""
OTHERS: dict[Action, Callable[[Context], None]] = {
    Action.TAKE_OVER: take_over,
    Action.NOTE: _note,
    Action.WAIT: _wait,
    Action.MAKE_WHOLE: _make_whole,
    Action.MEND: lost_journal.mend,
    Action.GIVE_UP: endings.give_up,
    Action.REFUSE: _refuse_abort,
    Action.MARK: _mark,
    Action.RETRY: lambda context: context.journal.record(replace(context.rotation, refused=None)),
    Action.TAKE_BACK: proof.take_back,
    Action.AGAIN: proof.again,
    Action.FORGET: completion.forget,
    Action.WATCH: proof.watch,
    Action.RESTORE: proof.restore,
    Action.HOOKS: completion.run_hooks,
    Action.BEGIN: _begin,
    Action.DELIVER: deliveries.deliver_now,
    Action.REPORT: report_refusal,
}
