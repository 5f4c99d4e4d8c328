"""The loop that runs everything: look, decide (rules.py), act.

`_look` says in a small frozen value what was found, the table decides, and each action is one method here or one
function beside it that does one thing and journals it. None of them decides what comes next. What an action raises
ends the call, once what it left behind is cleaned up; it is raised by `_run`.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial

from handler.backoff import MAX_ASKED
from handler.crypto.certificates import device_id
from handler.device import completed_rotations
from handler.device.device import Device
from handler.device.request import RotationRequest
from handler.device.services import Services
from handler.errors import (
    FORESEEABLE,
    OfflineError,
    PendingError,
    RequestRefusedError,
    ServerRefusedError,
    describe,
    is_final,
    until,
)
from handler.journal.journal import ANNOUNCED, PROVED, SWITCHED, RotationState
from handler.journal.pending import COMPLETED, EST, GATEWAY
from handler.servers.connections import Connections
from handler.servers.events import STARTED, Event
from handler.servers.http import Deadline, Limits

from . import completion, endings
from .context import Context
from .deliveries import Deliveries
from .enrolment import has_ended
from .lost_journal import LostJournal
from .preflight import check_before_anything_changes
from .progress import Progress
from .rules import GOING_BACK, Action, Before, Call, Found, Mark, Named, Stage, Way, Wish, next_action
from .steps import STEPS, Step, settle, settle_back, switch
from .takeover import NAME, take_over

log = logging.getLogger(__name__)

REPORT_LIMITS = Limits(total=10.0, connect=5.0, read=5.0, retry_delays=())
BY_HAND = "given up by hand"
SUPERSEDED = "superseded by "
WITHDRAWN = "the request was removed from the configuration"
MARKS = {BY_HAND: Mark.BY_HAND, WITHDRAWN: Mark.WITHDRAWN}
STAGES = (Stage.ENROL, Stage.ANNOUNCE, Stage.PREPARE, Stage.MOVE, Stage.SWITCH, Stage.PROVE, Stage.TELL, Stage.TIDY)
"""What comes next after that many steps."""


class Rotator:
    """Runs rotations on one device, one at a time; the caller holds the device's lock.

    One object makes one call: `rotate`, `resume`, `resume_offline`, `abort` or `withdraw`. They raise RefusedError,
    PendingError, hsm.errors.TokenError, OSError. `called_by_fioconfig` as in `Context`.
    """

    def __init__(
        self,
        device: Device,
        progress: Progress,
        *,
        called_by_fioconfig: bool,
        services: Services | None = None,
        limits: Limits | None = None,
    ) -> None:
        self._context = Context(device, progress, services or Services(), limits or Limits(), called_by_fioconfig)
        self._device, self._journal = device, self._context.journal
        self._deliveries = Deliveries(self._context)
        self._lost_journal = LostJournal(self._context)
        self._wish = Wish.RESUME
        self._request: RotationRequest | None = None
        self._failure: Exception | None = None
        self._superseded_error: Exception | None = None
        self._call = Call.GOES_ON
        self._way = Way.UNKNOWN
        self._why_closed = ""
        self._early: str | None = None
        self._noted = self._told = self._delivered = self._mended = self._changed = False
        self._done: set[Action] = set()

    @property
    def switched(self) -> bool:
        """Whether this call switched the key, one way or the other: fioconfig has loaded the one from before."""
        return self._context.switched

    # What a call is for

    def rotate(self, request: RotationRequest) -> bool:
        """Do what the request asks, after whatever is pending; tell whether there was anything to do."""
        self._request = request
        return self._run(Wish.ROTATE)

    def resume(self, *, unattended: bool = False) -> bool:
        """Go on with what is pending, if anything; tell whether there was anything.

        `unattended`: nobody asks, so what was refused is not tried again.
        """
        return self._run(Wish.UNATTENDED if unattended else Wish.RESUME)

    def abort(self) -> bool:
        """Give up what is pending and return to the old identity; tell whether there was anything."""
        return self._run(Wish.ABORT)

    def withdraw(self) -> bool:
        """Heed that the request was removed from the configuration; tell whether there was anything to do."""
        return self._run(Wish.WITHDRAWN)

    def resume_offline(self) -> bool:
        """Make a half-switched device whole without any network; tell whether anything had to be changed."""
        self._run(Wish.OFFLINE)
        return self._changed or self._context.settled

    def close(self) -> None:
        """Let go of connections, threads and the token."""
        self._deliveries.stop()
        self._context.connections.close()
        self._device.close()

    # The loop

    def _run(self, wish: Wish) -> bool:
        self._wish = wish
        self._journal.load()
        self._early = self._why_early()
        try:
            self._journal.settle_marker()
        except OSError as error:  # a full disk keeps nobody from what needs no room
            log.info("the daemon's marker: %s", describe(error))
        with self._fioconfig_released():
            while (action := next_action(self._look())) is not Action.DONE:
                self._done.add(action)
                try:
                    self._actions[action]()
                except FORESEEABLE as error:
                    self._failed(action, error)
            self._note_failure()
        if self._failure is not None:
            raise self._failure
        return bool(self._done - {Action.NOTE})

    def _look(self) -> Found:
        state = self._journal.rotation
        wanted = self._wanted()
        named = Named.OLD if state is None else self._named(state)
        mark = _mark(state)
        way = self._way
        if mark not in GOING_BACK:
            way = Way.UNKNOWN
        elif state is not None and named is Named.OLD and not state.locked:
            way = Way.BACK
        return Found(
            wish=self._wish,
            before=self._before(),
            stage=_stage(state, named),
            named=named,
            known=state is not None and state.locked,
            mark=mark,
            way=way,
            wanted=wanted is not None,
            waits=self._context.by_fioconfig and (self._told or self.switched),
            call=self._call,
            events=not self._delivered and bool(self._journal.undelivered()),
            lost=state is None and self._is_lost_journal_due(),
        )

    def _before(self) -> Before:
        if Action.TAKE_OVER not in self._done and (self._device.storage / NAME).exists():
            return Before.FOREIGN
        if not self._noted and self._wish in {Wish.ROTATE, Wish.ABORT, Wish.WITHDRAWN}:
            return Before.UNNOTED
        return Before.EARLY if self._early else Before.READY

    def _wanted(self) -> RotationRequest | None:
        """Give the rotation that is to begin once nothing else is pending."""
        if self._wish is Wish.ROTATE:
            return self._request if self._noted else None
        return self._journal.requested if self._wish in {Wish.RESUME, Wish.UNATTENDED} else None

    def _named(self, state: RotationState) -> Named:
        names = self._device.names_in_use(state.old, state.new)
        return {state.old: Named.OLD, state.new: Named.NEW}.get(names, Named.OTHER)

    def _is_lost_journal_due(self) -> bool:
        if self._mended or self._done & {Action.BEGIN, Action.TIDY, Action.DROP, Action.GIVE_UP}:
            return False
        if self._wish is Wish.UNATTENDED:
            return self._lost_journal.due
        return self._wish in {Wish.RESUME, Wish.OFFLINE} and self._lost_journal.exists

    def _failed(self, action: Action, error: Exception) -> None:
        """Have the call end with that error; the first one is the one to tell."""
        if self._failure is not None:
            log.warning("after that failure: %s", describe(error))
            self._call = Call.ENDS
            return
        self._failure = error
        self._call = Call.REFUSED if is_final(error) and action is not Action.UNMARK else Call.ENDS

    def _note_failure(self) -> None:
        """Have the journal say why this call could not go on: the daemon and people want to know."""
        if self._failure is None or self._wish is Wish.OFFLINE:
            return
        self._deliveries.drain()
        if is_final(self._failure) or Action.WAIT in self._done:
            return
        try:
            self._journal.wait(self._failure)
        except OSError as error:
            log.warning("after that failure: %s", describe(error))
        state = self._journal.rotation
        if self._wish is Wish.ABORT and state is not None and state.rollback == BY_HAND:
            log.warning("noted, and given up as soon as that can be")

    @contextlib.contextmanager
    def _fioconfig_released(self) -> Iterator[None]:
        """Have fioconfig started again in the end, however that comes, where a rotation stopped it."""
        if self._wish is Wish.OFFLINE:
            yield
            return
        with self._context.fioconfig.held():
            yield

    @property
    def _actions(self) -> dict[Action, Callable[[], None]]:
        return {
            Action.TAKE_OVER: lambda: take_over(self._context),
            Action.NOTE: self._note,
            Action.WAIT: self._wait,
            Action.MAKE_WHOLE: self._make_whole,
            Action.MEND: self._mend,
            Action.GIVE_UP: self._give_up,
            Action.REFUSE: lambda: self._refuse_abort("the gateway has taken the new certificate"),
            Action.DROP: self._drop,
            Action.MARK: self._mark_as_going_back,
            Action.ASK: self._ask_for_way_back,
            Action.UNMARK: self._unmark,
            Action.GO_BACK: self._go_back,
            Action.RETRY: self._retry,
            Action.SWITCH_AGAIN: self._switch_again,
            **{action: partial(self._step, step) for action, step in STEPS.items()},
            Action.PROVE: lambda: completion.prove(self._opened()),
            Action.FOLLOW: lambda: completion.bring_files_along(self._opened()),
            Action.TELL: self._tell_users,
            Action.TIDY: lambda: completion.tidy(self._opened(), self._lost_journal),
            Action.BEGIN: self._begin,
            Action.DELIVER: self._deliver,
        }

    def _opened(self) -> Context:
        """Open the key store for the ids of the rotation that is pending."""
        request = self._context.rotation.request
        self._device.open_store(request.key_ids, request.certificate_ids)
        return self._context

    # What is wanted

    def _note(self) -> None:
        """Take over what this call is for, so that a cut does not lose it."""
        self._noted = True
        state, request = self._journal.rotation, self._request
        if request is None:
            self._changed = self._journal.requested is not None
            self._journal.request(None)
        elif state is not None and state.rotation_id == request.rotation_id:
            if state.locked or state.refused is None:  # else it is dropped, and begins again
                self._request = None
            self._journal.record(replace(state, request=request))  # ESTSERVER may be a corrected one
            if self._context.by_fioconfig:  # it asks for this one again: nobody does for another any more
                self._journal.request(None)
        elif request.rotation_id in completed_rotations.rotation_ids(self._device.storage):
            self._request = None
        elif state is not None:  # it has to survive what comes first
            self._journal.request(request)

    def _why_early(self) -> str | None:
        """Say why a server is to be left alone; None where it is not, or a person asks.

        A time more than a day away is none that a server was granted: the clock is off.
        """
        waiting, state = self._journal.waiting, self._journal.rotation
        same = self._request in (state and state.request, self._journal.requested)
        heeds = self._wish is Wish.UNATTENDED or (self._context.by_fioconfig and self._request is not None and same)
        if not heeds or waiting is None or waiting.until is None or waiting.kind not in {EST, GATEWAY}:
            return None
        left = datetime.fromisoformat(waiting.until) - datetime.now(UTC)
        return waiting.reason if timedelta() < left <= timedelta(seconds=MAX_ASKED) else None

    def _wait(self) -> None:
        waiting = self._journal.waiting
        moment = datetime.fromisoformat((waiting and waiting.until) or datetime.now(UTC).isoformat())
        raise PendingError(f"{self._early}; it is left alone until {moment:%Y-%m-%d %H:%M:%S} UTC", moment)

    def _begin(self) -> None:
        """Check everything that can be refused before anything changes, then open the journal."""
        request = self._wanted()
        assert request is not None  # noqa: S101 - the rule asks for one
        events = self._context.events(request.rotation_id)
        try:
            unmended = self._lost_journal.refusal()
            self._device.open_store(request.key_ids, request.certificate_ids)
            old = self._device.names_in_use()
            new = check_before_anything_changes(self._device, self._context.local_config, self._context.connections)
            if unmended is not None:
                if self._device.store.find_key(new.key) is not None:
                    raise unmended  # the new key would take the place of one that may be needed
                log.warning("what a rotation that nobody goes on with has left is left: %s", describe(unmended))
        except FORESEEABLE as error:
            self._journal.request(None if is_final(error) else request)
            if is_final(error):
                self._report_refusal([events.make(STARTED), events.make(COMPLETED, failure=describe(error))])
            raise
        self._request = None
        self._journal.device = device_id(self._device.store.certificate(old.certificate))
        self._journal.record(RotationState(request, old, new), events.make(STARTED), taken=True)

    def _report_refusal(self, events: list[Event]) -> None:
        """Tell the operators, once and without a journal: a refused request changes nothing on the device."""
        connections = Connections(self._device, Deadline(REPORT_LIMITS.total), REPORT_LIMITS)
        try:
            connections.gateway(self._device.names_in_use()).post_events(events)
        except FORESEEABLE as error:
            log.info("the refusal was not reported: %s", describe(error))
        finally:
            connections.close()

    # Forward

    def _step(self, step: Step) -> None:
        """Run a step, journal and report it, and have its event delivered meanwhile."""
        state = self._opened().rotation
        if step.number == SWITCHED:
            # From the switch on nothing else may show the gateway a certificate: the proof comes first.
            self._deliveries.stop()
        else:
            self._deliveries.begin(state.old)
        if step.number == 1:
            self._context.connections.prepare_gateway(state.old)
        progress = self._context.progress
        progress.step_started(step.number, step.name)
        try:
            done = replace(step.run(self._context, state), step=max(state.step, step.number))
            left = None if done.files_left == state.files_left else done.files_left
            self._journal.record(done, self._context.events(state.rotation_id).make(step.name, failure=left))
        except FORESEEABLE as error:
            progress.step_failed(describe(error))
            self._record_failed_step(step, error)
            raise
        self._deliveries.notify()
        if left is None:
            progress.step_done()
        else:
            progress.step_failed(left)

    def _record_failed_step(self, step: Step, error: Exception) -> None:
        state, reason = self._context.rotation, describe(error)
        events = self._context.events(state.rotation_id)
        waiting = self._journal.waiting
        # That a server asks to come back later is reported once, that there is no network not at all.
        known = isinstance(error, OfflineError) or (waiting is not None and None not in (waiting.until, until(error)))
        reported = [] if known else [events.make(step.name, failure=reason)]
        try:
            if is_final(error) and self._named(state) is not Named.NEW:
                if state.locked:
                    reported.append(events.make(COMPLETED, failure=reason))
                state = replace(state, refused=reason)
            self._journal.record(state, *reported)
        except FORESEEABLE as second:
            # The first error is the one to tell; what could not be cleaned up is found by the next call.
            log.warning("after that failure: %s", describe(second))

    def _retry(self) -> None:
        self._journal.record(replace(self._context.rotation, refused=None))

    def _switch_again(self) -> None:
        log.warning("the configuration names the old identity again: it is switched to the new one")
        switch(self._opened(), self._context.rotation)

    def _tell_users(self) -> None:
        completion.tell_users(self._opened())
        self._told = True

    def _deliver(self) -> None:
        self._delivered = True
        self._deliveries.deliver_now()

    # Back

    def _mark_as_going_back(self) -> None:
        """Have the journal say that everything goes back, and why."""
        state, wanted = self._context.rotation, self._wanted()
        reason = BY_HAND if self._wish is Wish.ABORT else WITHDRAWN
        if wanted is not None:
            reason = f"{SUPERSEDED}{wanted.rotation_id}"
            if self._failure is not None:
                reason = f"{reason}: {self._failure}"
            self._superseded_error, self._failure, self._call = self._failure, None, Call.GOES_ON
        self._way = Way.UNKNOWN
        self._journal.record(replace(state, rollback=reason, refused=None))

    def _ask_for_way_back(self) -> None:
        state = self._opened().rotation
        named_old = self._named(state) is Named.OLD
        if named_old and self._device.store_of(state.new).find_key(state.new.key) is None:
            self._way = Way.BACK  # a cut came after all that is done
            return
        try:
            closed = endings.why_no_way_back(self._context)
        except ServerRefusedError as error:
            if self._superseded_error is None:
                raise
            closed = str(error)
        self._way, self._why_closed = (Way.CLOSED, closed) if closed else (Way.OPEN, "")

    def _go_back(self) -> None:
        endings.go_back(self._opened())
        self._way = Way.BACK

    def _unmark(self) -> None:
        """Go on with the new identity: the old one cannot be used any more."""
        state = self._opened().rotation
        if state.step >= SWITCHED:
            switch(self._context, state)
        error = self._superseded_error
        self._journal.record(replace(state, rollback=None, refused=None if error is None else describe(error)))
        if error is not None:
            raise error
        if self._wish is Wish.ABORT:
            self._refuse_abort(self._why_closed)
        raise PendingError(f"there is no way back ({state.rollback}): {self._why_closed}. The new one is tried again")

    def _refuse_abort(self, closed: str) -> None:
        raise RequestRefusedError(
            f"rotation {self._context.rotation.rotation_id} is past the point of no return: {closed}; "
            "`renew-client-cert resume` finishes it"
        )

    def _drop(self) -> None:
        """End the rotation with the old identity in use."""
        state = self._opened().rotation
        mark = _mark(state)
        reason = f"rolled back, {state.rollback}" if state.locked else state.rollback or state.refused or ""
        endings.drop(self._context, reason)
        self._delivered, self._way = False, Way.UNKNOWN
        if mark is Mark.TAKEN_BACK:
            raise ServerRefusedError(reason)
        if mark is Mark.BY_HAND and self._wish is not Wish.ABORT:
            log.warning("what `abort` asked for is done: %s", reason)
        elif mark is Mark.SUPERSEDED and state.locked:
            log.warning("%s", reason)

    def _give_up(self) -> None:
        state = self._context.rotation
        reason = endings.give_up(self._context, self._device.names_in_use(state.old, state.new))
        self._delivered = False
        if self._wish is not Wish.ABORT:
            raise RequestRefusedError(reason)
        log.warning("%s", reason)

    # Offline, and what was lost

    def _make_whole(self) -> None:
        state = self._opened().rotation
        if self._named(state) is Named.NEW:
            settle(self._context, state)
        else:
            self._changed = settle_back(self._context, state)
        self._call = Call.ENDS

    def _mend(self) -> None:
        self._mended = True
        self._changed = self._lost_journal.mend(offline=self._wish is Wish.OFFLINE)


def _mark(state: RotationState | None) -> Mark:
    if state is not None and state.rollback is not None:
        if state.rollback in MARKS:
            return MARKS[state.rollback]
        return Mark.SUPERSEDED if state.rollback.startswith(SUPERSEDED) else Mark.TAKEN_BACK
    return Mark.NONE if state is None or state.refused is None else Mark.REFUSED


def _stage(state: RotationState | None, named: Named) -> Stage:
    """Give what comes next by the journal. The certificate may have ended since it was issued: it is evidence too."""
    if state is None:
        return Stage.NONE
    if state.step < SWITCHED and named is Named.OLD and (state.certificate is None or has_ended(state)):
        return Stage.ENROL
    if state.step == PROVED and state.files_left is not None:
        return Stage.FOLLOW
    return STAGES[min(state.step, ANNOUNCED)]
