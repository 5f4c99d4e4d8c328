"""One method per action of the rules. Each does one thing and journals it; none decides what comes next."""

import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

from handler.crypto.names import common_name
from handler.device import completed_rotations
from handler.device.request import RotationRequest
from handler.errors import (
    FORESEEABLE,
    PendingError,
    RequestRefusedError,
    ServerRefusedError,
    describe,
    is_final,
)
from handler.journal.events import STARTED
from handler.journal.rotation_state import PROVED, SWITCHED, RotationState
from handler.servers.connections import Connections
from handler.servers.http import Limits
from handler.servers.transport import Deadline

from .context import Context
from .deliveries import Deliveries
from .found import Call, Kept, Mark, Named, Way, Wish
from .look import BY_HAND, SUPERSEDED, WITHDRAWN, mark_of, named_by_configuration, wanted
from .memory import Memory
from .phases import completion, endings, proof
from .phases.lost_journal import LostJournal
from .phases.preflight import check_before_anything_changes, report_refusal
from .phases.steps import STEPS, run_step, settle, settle_back, switch
from .phases.takeover import take_over
from .rules import Action

log = logging.getLogger(__name__)

REPORT_LIMITS = Limits(total=10.0, connect=5.0, read=5.0, retry_delays=())


class Actions:
    """The actions of one call. `act` raises RefusedError, PendingError, hsm.errors.TokenError, OSError."""

    def __init__(self, context: Context, memory: Memory, deliveries: Deliveries, lost_journal: LostJournal) -> None:
        self._context, self._memory = context, memory
        self._device, self._journal = context.device, context.journal
        self._deliveries, self._lost_journal = deliveries, lost_journal
        steps = {action: partial(self._step, action) for action in STEPS}
        self._methods: dict[Action, Callable[[], None]] = {
            Action.TAKE_OVER: lambda: take_over(context),
            Action.NOTE: self._note,
            Action.WAIT: self._wait,
            Action.MAKE_WHOLE: self._make_whole,
            Action.MEND: self._mend,
            Action.GIVE_UP: self._give_up,
            Action.REFUSE: lambda: self._refuse_abort("the device gateway has accepted the new certificate"),
            Action.DROP: self._drop,
            Action.MARK: self._mark,
            Action.ASK: self._ask,
            Action.UNMARK: self._unmark,
            Action.GO_BACK: self._go_back,
            Action.RETRY: lambda: self._journal.record(replace(context.rotation, refused=None)),
            Action.SWITCH_AGAIN: self._switch_again,
            **steps,
            Action.PROVE: lambda: proof.prove(self._opened(), memory),
            Action.ASK_OLD: lambda: proof.ask_old(self._opened(), memory),
            Action.RECORD_PROOF: lambda: proof.record(self._opened(), memory),
            Action.TAKE_BACK: lambda: proof.take_back(context, memory),
            Action.AGAIN: lambda: proof.again(context, memory),
            Action.KEEP: partial(self._drop, keep=True),
            Action.FORGET: self._forget,
            Action.WATCH: lambda: proof.watch(context, memory),
            Action.RESTORE: lambda: proof.restore(context, memory),
            Action.FOLLOW: lambda: completion.bring_files_along(self._opened()),
            Action.HOOKS: self._run_hooks,
            Action.TELL: self._tell,
            Action.TIDY: lambda: completion.tidy(self._opened(), lost_journal),
            Action.BEGIN: self._begin,
            Action.DELIVER: self._deliver,
            Action.REPORT: lambda: report_refusal(context, memory),
        }

    def act(self, action: Action) -> None:
        """Perform one action."""
        self._memory.done.add(action)
        self._methods[action]()

    def _opened(self) -> Context:
        """Open the key store for the ids of the pending rotation."""
        request, new = self._context.rotation.request, self._context.rotation.new
        kept = self._journal.facts.kept
        ids = () if kept is not None and kept.rotation.new == new else (request.key_ids, request.certificate_ids)
        self._device.open_store(*ids)
        return self._context

    # The request

    def _note(self) -> None:
        """Journal what this call is for, so that a power cut does not lose it."""
        memory, state, request = self._memory, self._journal.facts.rotation, self._memory.request
        memory.noted = True
        if request is None:
            memory.changed = self._journal.facts.requested is not None
            self._journal.request(None)
        elif state is not None and state.rotation_id == request.rotation_id:
            if state.locked or state.refused is None:  # otherwise it is dropped and starts again
                memory.request = None
            self._journal.record(replace(state, request=request))  # ESTSERVER may have been corrected
            if self._context.by_fioconfig:  # it requests this one again, so no other one is requested
                self._journal.request(memory.request)
        elif request.rotation_id in completed_rotations.rotation_ids(self._device.storage):
            memory.request = None
        elif state is not None or self._journal.facts.kept is not None:  # it has to survive until its turn
            self._journal.request(request)

    def _wait(self) -> None:
        waiting = self._journal.facts.waiting
        moment = datetime.fromisoformat((waiting and waiting.until) or datetime.now(UTC).isoformat())
        raise PendingError(f"{self._memory.early}; not contacting it yet", moment)

    def _begin(self) -> None:
        """Check everything that can be refused before anything changes, then start the rotation in the journal."""
        request = wanted(self._context, self._memory)
        assert request is not None  # noqa: S101 - the rule asks for one
        state = self._checked(request)
        self._memory.request = None
        self._journal.record(state, self._context.events(request.rotation_id).make(STARTED), taken=True)

    def _checked(self, request: RotationRequest) -> RotationState:
        """Check a request before anything changes, note a failure, and return how its rotation starts."""
        try:
            unmended = self._lost_journal.refusal() if self._journal.facts.rotation is None else None
            self._device.open_store(request.key_ids, request.certificate_ids)
            old = self._device.names_in_use()
            new = check_before_anything_changes(self._device, self._context.local_config, self._context.connections)
            if unmended is not None:
                if self._device.store.find_key(new.key) is not None:
                    raise unmended  # the new key would replace one that may still be needed
                log.warning("leftovers of an abandoned rotation could not be cleaned up: %s", describe(unmended))
            self._journal.name_device(common_name(self._device.store.certificate(old.certificate).subject))
            state = RotationState(request, old, new)
            return proof.with_kept_key(self._context, state) if self._journal.facts.rotation is None else state
        except FORESEEABLE as error:
            if not is_final(error):
                self._journal.request(request)
            else:
                if self._journal.facts.requested == request:
                    self._journal.request(None)
                self._memory.refused = request.rotation_id, error
            raise

    # Forward

    def _step(self, action: Action) -> None:
        context, step = self._opened(), STEPS[action]
        old = context.rotation.old
        if step.number == SWITCHED:
            # From the switch on, nothing but the proof may show the gateway a certificate first.
            self._deliveries.stop()
        elif not self._device.is_slow:  # otherwise several handshakes would wait for one token
            self._deliveries.begin(old)
            if action is Action.ENROL:
                context.connections.prepare_gateway(old)
        in_use = named_by_configuration(context, context.rotation) is Named.NEW
        run_step(context, step, is_new_in_use=in_use)
        self._deliveries.notify()

    def _switch_again(self) -> None:
        log.warning("the configuration names the old identity again: switching to the new one")
        state = self._context.fioconfig.hold(self._opened().rotation)
        if state.step > PROVED:  # its users may have loaded the old one: restart them again
            state = replace(state, step=PROVED)
            self._journal.record(state)
        switch(self._context, state)

    def _run_hooks(self) -> None:
        proved = self._context.rotation.step >= PROVED
        self._memory.hooks = completion.run_hooks(self._context, "success" if proved else "rolled-back")

    def _tell(self) -> None:
        completion.tell_users(self._opened(), self._memory.hooks)
        self._memory.told, self._memory.hooks = True, None

    def _deliver(self) -> None:
        self._memory.delivered = True
        if self._memory.refused is not None:  # fioconfig is not kept waiting for that
            self._context.connections.close()
            self._context.connections = Connections(self._device, Deadline(REPORT_LIMITS.total), REPORT_LIMITS)
        self._deliveries.deliver_now()

    # The kept identity

    def _forget(self) -> None:
        self._device.open_store()
        completion.forget(self._context, proof.kept(self._context).rotation.new)
        self._journal.record(None, keep=None)

    # Back

    def _mark(self) -> None:
        """Journal that the rotation rolls back, and why."""
        memory, state, other = self._memory, self._context.rotation, wanted(self._context, self._memory)
        reason = BY_HAND if memory.wish is Wish.ABORT else WITHDRAWN
        if other is not None:
            if memory.failure is None:
                self._checked(other)  # a refused request touches no pending rotation
            reason = f"{SUPERSEDED}{other.rotation_id}{f': {memory.failure}' if memory.failure else ''}"
            memory.refused_before, memory.failure, memory.call = memory.failure, None, Call.GOES_ON
        memory.way = Way.UNKNOWN
        self._journal.record(replace(state, rollback=reason, refused=None))

    def _ask(self) -> None:
        """Find out whether the rotation can roll back."""
        memory, state = self._memory, self._opened().rotation
        named_old = named_by_configuration(self._context, state) is Named.OLD
        if named_old and self._device.store_of(state.new).find_key(state.new.key) is None:
            memory.way = Way.BACK  # everything was done before a power cut
            return
        try:
            closed = endings.why_no_way_back(self._context)
        except ServerRefusedError as error:
            if memory.refused_before is None:
                raise
            closed = str(error)
        memory.way, memory.why_closed = (Way.CLOSED, closed) if closed else (Way.OPEN, "")

    def _go_back(self) -> None:
        endings.go_back(self._opened())
        self._memory.way = Way.BACK

    def _unmark(self) -> None:
        """Continue with the new identity: the old one can no longer be used."""
        state, error = self._opened().rotation, self._memory.refused_before
        named_old = named_by_configuration(self._context, state) is Named.OLD
        if named_old:
            state = self._context.fioconfig.hold(state)
        if state.step >= SWITCHED:
            switch(self._context, state)
        elif named_old:
            settle_back(self._context, state)  # a power cut may have interrupted going back
        self._journal.record(replace(state, rollback=None, refused=None if error is None else describe(error)))
        if error is not None:
            raise error
        closed = self._memory.why_closed
        if self._memory.wish is Wish.ABORT:
            self._refuse_abort(closed)
        raise PendingError(f"cannot roll back ({state.rollback}): {closed}; trying the new certificate again")

    def _refuse_abort(self, closed: str) -> None:
        raise RequestRefusedError(
            f"rotation {self._context.rotation.rotation_id} is past the point of no return: {closed}; "
            "`renew-client-cert resume` finishes it"
        )

    def _drop(self, *, keep: bool = False) -> None:
        """End the rotation with the old identity in use; the journal already says that it ends."""
        state = self._opened().rotation
        mark = mark_of(state)
        reason = f"rolled back, {state.rollback}" if state.locked else state.rollback or state.refused or ""
        reported = f"{reason}; {self._memory.hooks}" if self._memory.hooks else reason
        (endings.keep if keep else endings.drop)(self._context, reported)
        self._memory.hooks = None
        self._memory.delivered, self._memory.way, self._memory.refused_before = False, Way.UNKNOWN, None
        self._memory.kept = Kept.NONE  # the gateway has just taken the old certificate
        if mark is Mark.TAKEN_BACK:
            raise ServerRefusedError(reason)
        if mark is Mark.BY_HAND and self._memory.wish is not Wish.ABORT:
            log.warning("aborted as requested: %s", reason)
        elif mark is Mark.SUPERSEDED and state.locked:
            log.warning("%s", reason)

    def _give_up(self) -> None:
        state = self._context.rotation
        reason = endings.give_up(self._context, self._device.names_in_use(state.old, state.new))
        self._memory.delivered = False
        if self._memory.wish is not Wish.ABORT:
            raise RequestRefusedError(reason)
        log.warning("%s", reason)

    # Without a network, and without a journal

    def _make_whole(self) -> None:
        self._memory.call = Call.ENDS
        if self._journal.facts.rotation is None:
            self._memory.changed = proof.settle_kept(self._context)
            return
        state = self._opened().rotation
        if named_by_configuration(self._context, state) is Named.NEW:
            settle(self._context, state)
        else:
            self._memory.changed = settle_back(self._context, state)

    def _mend(self) -> None:
        self._memory.changed = self._lost_journal.mend(offline=self._memory.wish is Wish.OFFLINE)
