"""The rule for each place in which a rotation can have stopped.

Found at the start of a call, first match:

| journal | sota.toml names | the rule |
| --- | --- | --- |
| nothing pending, or only a request | anything | a request that is not completed yet begins |
| any | neither | somebody else changed the identity: give the rotation up, touch nothing in use |
| gateway refused the new certificate | either | roll back: old identity, config.encrypted, files on the server |
| refused before step 2 was asked for | old identity | drop it (new key destroyed), then begin again from the start |
| step 0..4 done | old identity | go on with the next step; the same key and the same CSR |
| step 0..4 done | new identity | cut off inside step 5: make config.encrypted whole, go on below |
| step 5 done, or later | old identity | a roll-back found no way back, or a backup was restored: switch again, go on |
| step 5 done | new identity | `CertRotationCompleted` over the new certificate: the gateway's first sight of it |
| that was taken | new identity | record the completion, restart the users of the key |
| that is done | new identity | tidy up: config.encrypted whole, the old key gone |

Another ROTATIONID, or none any more: as long as the gateway cannot know the new key (`locked`), the rotation is
dropped. Later it is finished, or, where it is refused again, rolled back for the other one.

What fails: a refusal while the gateway cannot know the new key drops the rotation; a refusal after that stays in the
journal for whoever is asked to look; everything else, and everything after the switch, is pending. The old identity
stays whole until the gateway has taken the new one.
"""

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from handler.backoff import MAX_ASKED
from handler.console.progress import Progress
from handler.crypto.certificates import device_id
from handler.device import completed_rotations as completed
from handler.device.device import Device
from handler.device.request import RotationRequest
from handler.device.services import Services
from handler.errors import FORESEEABLE, PendingError, RequestRefusedError, ServerRefusedError, describe, is_final
from handler.journal.journal import ANNOUNCED, PROVED, SWITCHED, Journal, RotationState
from handler.journal.pending import COMPLETED, EST, GATEWAY
from handler.servers.connections import Connections
from handler.servers.events import STARTED, Event
from handler.servers.http import Deadline, Limits

from .endings import Ending
from .fioconfig import Fioconfig
from .lost_journal import LostJournal
from .preflight import check_before_anything_changes
from .runner import Runner
from .steps import Steps
from .takeover import take_over

log = logging.getLogger(__name__)

REPORT_LIMITS = Limits(total=10.0, connect=5.0, read=5.0, retry_delays=())
BY_HAND = "given up by hand"
SUPERSEDED = "superseded by "


class Rotator:
    """Runs rotations on one device, one at a time; the caller holds the device's lock.

    `called_by_fioconfig`: fioconfig waits for this call and is ended by its exit status, so it is neither stopped nor
    started here, and the old key outlives this call: if it is killed, fioconfig stores a configuration for that key.
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
        self._device = device
        self._progress = progress
        self._called_by_fioconfig = called_by_fioconfig
        services = services or Services()
        limits = limits or Limits()
        self._connections = Connections(device, Deadline(limits.total), limits)
        self._journal = Journal(device.storage)
        self._fioconfig = Fioconfig(self._journal, services, waits_for_us=called_by_fioconfig)
        self._steps = Steps(device, self._journal, self._connections, self._fioconfig)
        self._lost_journal = LostJournal(device, self._journal, self._steps)
        self._ending = Ending(
            device,
            self._journal,
            self._connections,
            self._steps,
            services,
            self._fioconfig,
            progress,
            called_by_fioconfig=called_by_fioconfig,
        )
        self._runner = Runner(device, self._journal, self._connections, self._steps, self._ending, progress)

    @property
    def switched(self) -> bool:
        """Whether this call switched the key (or config.encrypted to it), one way or the other.

        fioconfig has loaded what was there before. What was switched and rolled back in one call is as before.
        """
        return self._steps.switched or self._ending.undone

    # What is asked

    def rotate(self, request: RotationRequest) -> bool:
        """Do what the request asks, after whatever is pending; tell whether there was anything to do.

        Raises RefusedError, PendingError, hsm.errors.TokenError, OSError.
        """
        state = self._load()
        wanted = None
        if self._called_by_fioconfig and request in (state and state.request, self._journal.requested):
            self._heed_waiting()
        if state is not None and state.rotation_id == request.rotation_id:
            self._journal.record(_corrected(state, request))
            if self._called_by_fioconfig:  # it asks for this one again: nobody does for another any more
                self._journal.request(None)
        elif request.rotation_id not in completed.rotation_ids(self._device.storage):
            wanted = request
            if state is not None:  # it has to survive what comes first
                self._journal.request(request)
        return self._work(wanted)

    def resume(self, *, unattended: bool = False) -> bool:
        """Go on with what is pending, if anything; tell whether there was anything. Raises like `rotate`.

        `unattended`: nobody asks, so what was refused is not tried again.
        """
        state = self._load()
        if state is not None and state.refused is not None:
            if unattended:
                return self._leave_refused(state, state.refused)
            if not _starts_over(state):
                self._journal.record(replace(state, refused=None))
        if unattended:
            self._heed_waiting()
        return self._work(self._journal.requested, mend=not unattended or self._lost_journal.due)

    def abort(self) -> bool:
        """Give up what is pending and return to the old identity; tell whether there was anything.

        Raises RefusedError where that is no longer possible, and like `rotate`.
        """
        state = self._load()
        requested = self._journal.requested
        self._journal.request(None)
        if state is None:
            return requested is not None
        with self._remembering(), self._fioconfig.held():
            try:
                self._abort(state)
            except FORESEEABLE as error:
                left = self._journal.rotation
                if left is not None and left.step < PROVED and not is_final(error):
                    self._journal.record(replace(left, rollback=BY_HAND, refused=None))
                    log.warning("noted, and given up as soon as that can be")
                raise
        return True

    def _abort(self, state: RotationState) -> None:
        names = self._device.names_in_use(state.old, state.new)
        if names not in (state.old, state.new):
            log.warning("%s", self._ending.give_up(state, names))
            return
        self._open(state)
        if not state.locked and names == state.old:
            self._ending.drop(state, BY_HAND)
            self._ending.deliver_now()
            return
        closed = "the gateway has taken the new certificate" if state.step >= PROVED else None
        if closed := closed or self._ending.way_back_closed(state):
            raise RequestRefusedError(
                f"rotation {state.rotation_id} is past the point of no return: {closed}; "
                "`renew-client-cert resume` finishes it"
            )
        state = replace(state, rollback=BY_HAND, refused=None)
        self._journal.record(state)
        self._ending.go_back(state)

    def withdraw(self) -> bool:
        """Heed that the request was removed from the configuration; tell whether there was anything to do.

        A rotation of which the gateway knows nothing is dropped, a later one is finished. Raises like `rotate`.
        """
        state = self._load()
        self._journal.request(None)
        if state is not None and not state.locked and state.rollback is None:
            self._abandon(state, "the request was removed from the configuration")
            self._ending.deliver_now()
            return True
        return self._work(None)

    def resume_offline(self) -> bool:
        """Make a half-switched device whole without any network; leave everything else for later.

        Tells whether anything had to be changed. Raises RefusedError, hsm.errors.TokenError, OSError.
        """
        state = self._load()
        if state is None:
            return self._lost_journal.exists and self._lost_journal.mend(offline=True)
        names = self._device.names_in_use(state.old, state.new)
        undone = names == state.old and (state.rollback is not None or state.step >= SWITCHED)
        if names == state.new or undone:
            self._open(state)
        if names == state.new:
            self._steps.settle(state)
        elif undone:
            return self._steps.settle_back(state)
        return self._steps.switched

    def close(self) -> None:
        """Let go of connections, threads and the token."""
        self._runner.close()
        self._connections.close()
        self._device.close()

    # The rules

    def _work(self, request: RotationRequest | None, *, mend: bool = False) -> bool:
        """Finish the rotation that is pending, then begin the one that is requested, then deliver what is left.

        Where there is neither, `mend` what one has left whose journal was lost.

        Where fioconfig called and the first has switched the key, the second is left to the next call: until fioconfig
        has ended it knows the old key only, which the second would take away.
        """
        with self._remembering(), self._fioconfig.held():
            return self._worked(request, mend=mend)

    def _worked(self, request: RotationRequest | None, *, mend: bool) -> bool:
        state = self._journal.rotation
        worked = state is not None or request is not None
        if state is not None:
            if request is not None and not state.locked and state.rollback is None:
                self._abandon(state, f"{SUPERSEDED}{request.rotation_id}")
            elif request is not None:
                self._finish_for(state, request)
            else:
                self._finish(state)
        if request is not None and not (self._called_by_fioconfig and self.switched):
            if self._journal.rotation is not None:  # announced, kept for a cut that did not come
                self._ending.tidy(self._journal.rotation)
            self._finish(self._begin(request))
        begun = worked
        if self._journal.rotation is None and self._journal.undelivered():
            self._ending.deliver_now()
            worked = True
        if mend and not begun and self._lost_journal.exists:  # else at the next beginning
            worked |= self._lost_journal.mend(offline=False)
        return worked

    def _begin(self, request: RotationRequest) -> RotationState:
        """Check everything that can be refused before anything changes, then open the journal."""
        events = self._ending.events(request.rotation_id)
        try:
            unmended = self._lost_journal.refusal()
            self._device.open_store(request.key_ids, request.certificate_ids)
            old = self._device.names_in_use()
            new = check_before_anything_changes(self._device, self._steps.local_config, self._connections)
            if unmended is not None:
                if self._device.store.find_key(new.key) is not None:
                    raise unmended  # the new key would take the place of one that may be needed
                log.warning("what a rotation that nobody goes on with has left is left: %s", describe(unmended))
        except FORESEEABLE as error:
            self._journal.request(None if is_final(error) else request)
            if is_final(error):
                self._report_refusal([events.make(STARTED), events.make(COMPLETED, failure=describe(error))])
            raise
        state = RotationState(request, old, new)
        self._journal.device = device_id(self._device.store.certificate(old.certificate))
        self._journal.record(state, events.make(STARTED), taken=True)
        return state

    def _finish(self, state: RotationState) -> None:
        """Bring a rotation to its end from wherever it is."""
        names = self._device.names_in_use(state.old, state.new)
        if names not in (state.old, state.new):
            raise RequestRefusedError(self._ending.give_up(state, names))
        self._open(state)
        if state.rollback == BY_HAND:  # no failure: somebody asked for it
            log.warning("what `abort` asked for is done: %s", self._ending.go_back(state))
        elif state.rollback is not None and state.rollback.startswith(SUPERSEDED):
            log.warning("%s", self._ending.go_back(state))
        elif state.rollback is not None:
            self._ending.roll_back(state)
        elif names == state.old and state.step >= SWITCHED:
            log.warning("the configuration names the old identity again: it is switched to the new one")
            self._steps.switch(state)
            self._finish(state)
        elif state.step == ANNOUNCED:
            self._ending.tidy(state)
        elif _starts_over(state):
            self._device.discard(state.new)
            self._journal.request(self._journal.requested or state.request)  # in case of a cut before it has begun
            self._journal.record(None)
            self._finish(self._begin(state.request))
        else:
            if state.step < SWITCHED:
                if names == state.old:
                    state = self._steps.without_what_has_ended(state)
                state = self._runner.run(state, switched=names == state.new)
            self._ending.complete(state)

    def _finish_for(self, state: RotationState, request: RotationRequest) -> None:
        """Finish a rotation so that another one can begin. One that is refused again goes back for it, if it still can.

        Else the operators could not get a device out of a refusal without going there.
        """
        try:
            self._finish(state)
        except FORESEEABLE as error:
            left = self._journal.rotation
            if not is_final(error) or left is None or left.refused is None:
                raise
            left = replace(left, rollback=f"{SUPERSEDED}{request.rotation_id}: {error}", refused=None)
            self._journal.record(left)
            try:
                closed = self._ending.way_back_closed(left)
            except ServerRefusedError as refused:
                closed = str(refused)
            if closed:
                self._journal.record(replace(left, rollback=None, refused=describe(error)))
                raise
            log.warning("%s", self._ending.go_back(left))

    # Small parts

    def _heed_waiting(self) -> None:
        """Leave a server alone as long as it asked for, across calls and boots. Raises PendingError.

        For calls that no person makes. A time more than a day away is none that a server was granted: the clock is off.
        """
        waiting = self._journal.waiting
        if waiting is None or waiting.until is None or waiting.kind not in {EST, GATEWAY}:
            return
        until = datetime.fromisoformat(waiting.until)
        if timedelta() < until - datetime.now(UTC) <= timedelta(seconds=MAX_ASKED):
            raise PendingError(f"{waiting.reason}; it is left alone until {until:%Y-%m-%d %H:%M:%S} UTC", until)

    @contextlib.contextmanager
    def _remembering(self) -> Iterator[None]:
        """Have the journal say why a call could not go on: the daemon and people want to know."""
        try:
            yield
        except FORESEEABLE as error:
            if not is_final(error):
                try:
                    self._journal.wait(error)
                except OSError as second:
                    log.warning("after that failure: %s", describe(second))
            raise

    def _leave_refused(self, state: RotationState, reason: str) -> bool:
        """Leave a refused rotation to whoever is asked to look; clean up and deliver what can be."""
        if not state.locked:
            self._open(state)
            self._ending.drop(state, reason)
        if not self._journal.undelivered():
            return False
        self._ending.deliver_now()
        return True

    def _load(self) -> RotationState | None:
        self._journal.load()
        try:
            self._journal.settle_marker()
        except OSError as error:  # a full disk keeps nobody from what needs no room
            log.info("the daemon's marker: %s", describe(error))
        take_over(self._device, self._journal, self._steps)
        return self._journal.rotation

    def _abandon(self, state: RotationState, reason: str) -> None:
        """Drop a rotation that nobody asks for any more, unless sota.toml says that it came further."""
        if self._device.names_in_use(state.old) != state.old:
            self._finish(state)
        else:
            self._open(state)
            self._ending.drop(state, reason)

    def _open(self, state: RotationState) -> None:
        self._device.open_store(state.request.key_ids, state.request.certificate_ids)

    def _report_refusal(self, events: list[Event]) -> None:
        """Tell the operators, once and without a journal: a refused request changes nothing on the device."""
        connections = Connections(self._device, Deadline(REPORT_LIMITS.total), REPORT_LIMITS)
        try:
            connections.gateway(self._device.names_in_use()).post_events(events)
        except FORESEEABLE as error:
            log.info("the refusal was not reported: %s", describe(error))
        finally:
            connections.close()


def _starts_over(state: RotationState) -> bool:
    return state.refused is not None and not state.locked


def _corrected(state: RotationState, request: RotationRequest) -> RotationState:
    """Take a corrected ESTSERVER over, and try again what was refused."""
    state = replace(state, request=request)
    return state if _starts_over(state) else replace(state, refused=None)
