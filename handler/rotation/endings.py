"""How a rotation ends: proved and complete, rolled back, dropped, or given up."""

import logging
from dataclasses import replace
from functools import partial
from typing import NoReturn

from handler.console.progress import Progress
from handler.device import completed_rotations as completed
from handler.device.current_target import current_target
from handler.device.device import Device
from handler.device.keystore import IdentityNames
from handler.device.services import Services
from handler.errors import FORESEEABLE, PendingError, RefusedError, ServerRefusedError, describe
from handler.journal.journal import ANNOUNCED, PROVED, SWITCHED, Journal, RotationState
from handler.journal.pending import COMPLETED, LOCKED
from handler.servers.connections import Connections
from handler.servers.events import EventFactory, deliver
from handler.servers.gateway import CERTIFICATE_REFUSALS
from hsm.errors import UnsupportedError

from .fioconfig import Fioconfig
from .lost_journal import LostJournal
from .steps import Steps
from .takeover import NOWHERE

log = logging.getLogger(__name__)


class Ending:
    """Ends rotations on one device. `called_by_fioconfig` as in `Rotator`."""

    def __init__(
        self,
        device: Device,
        journal: Journal,
        connections: Connections,
        steps: Steps,
        services: Services,
        fioconfig: Fioconfig,
        progress: Progress,
        *,
        called_by_fioconfig: bool,
    ) -> None:
        self._device = device
        self._journal = journal
        self._connections = connections
        self._steps = steps
        self._services = services
        self._fioconfig = fioconfig
        self._progress = progress
        self._called_by_fioconfig = called_by_fioconfig
        self._lost_journal = LostJournal(device, journal, steps)
        self._target = current_target(device.storage)
        self.undone = False
        """Whether this call has undone what an earlier one had switched."""

    def events(self, rotation_id: str) -> EventFactory:
        """Give what makes that rotation's events."""
        return EventFactory(rotation_id, self._target)

    def complete(self, state: RotationState) -> None:
        """Prove the new identity, tell its users, tidy up. Raises ServerRefusedError (rolled back), PendingError."""
        if state.step < PROVED:
            state = self._prove(state)
        if state.files_left is not None:
            state = self._bring_files_along(state)
        completed.write(self._device.storage, state)
        self._services.restart_aktualizr()
        state = replace(state, step=ANNOUNCED)
        self._journal.record(state)
        self._progress.completed(state.rotation_id, state.new, self._device.store.certificate(state.new.certificate))
        if not self._called_by_fioconfig:
            self.tidy(state)

    def _prove(self, state: RotationState) -> RotationState:
        """Report the completion over the new certificate: taken, it is proved; refused for good, all goes back."""
        if not state.reported:
            state = replace(state, reported=True)
            self._journal.record(state, self.events(state.rotation_id).make(COMPLETED))
        try:
            deliver(self._journal, self._connections.gateway(state.new))
        except ServerRefusedError as error:
            if error.status in CERTIFICATE_REFUSALS:
                # Its report waits until all is back: where there is no way back, it goes out after all, under its id.
                state = replace(state, rollback=f"the gateway refused the new certificate: {error}")
                self._journal.record(state)
                self.roll_back(state)
            log.warning("the gateway takes the new certificate, but not the events: %s", error)
        state = replace(state, step=PROVED)
        self._journal.record(state)
        return state

    def _bring_files_along(self, state: RotationState) -> RotationState:
        """Have the files that were left for the old key encrypted to the new one. Raises PendingError."""
        try:
            self._move_files(state.old, state.new, via=state.new)
        except ServerRefusedError as error:  # the old key must not go before that is done
            raise PendingError(f"the device's files on the server are for the old key still: {error}") from error
        state = replace(state, files_left=None)
        self._journal.record(state)
        return state

    def _move_files(self, old: IdentityNames, new: IdentityNames, via: IdentityNames) -> None:
        """Have the device's files on the server encrypted to `new`; what no key reads stops nothing any more.

        Raises ServerRefusedError, PendingError.
        """
        try:
            self._steps.move_device_config(old, new, via=via)
        except ServerRefusedError:
            raise
        except RefusedError as error:
            log.warning("%s", error)

    def roll_back(self, state: RotationState) -> NoReturn:
        """Return to the old identity, then raise ServerRefusedError with the reason. Raises like `go_back`."""
        raise ServerRefusedError(self.go_back(state))

    def go_back(self, state: RotationState) -> str:
        """Return to the old identity: sota.toml, config.encrypted, the files on the server; give the reason, reported.

        Raises PendingError where there is no way back: then the new one is tried again.
        """
        whole = self._device.store.find_key(state.new.key) is not None
        if self._device.names_in_use(state.old) == state.old and not (state.locked and whole):
            return self._rolled_back(state)  # nothing is to go back; or a cut came after all that is done here
        if closed := self.way_back_closed(state):
            if state.step >= SWITCHED:
                self._steps.switch(state)
            self._journal.record(replace(state, rollback=None))
            raise PendingError(f"there is no way back ({state.rollback}): {closed}. The new one is tried again")
        if state.step >= LOCKED:  # else the gateway was told of the new key, and nothing else was done
            state = self._fioconfig.hold(state)
            if state.files_left is None:
                state = replace(state, files_left="a roll-back was begun")
                self._journal.record(state)
        undone = self._device.switch(state.old)
        if state.step >= LOCKED:
            undone |= self._steps.settle_back(state)
            self._move_files(state.new, state.old, via=state.old)
        self.undone |= undone and not self._steps.switched
        self._steps.switched = False
        if undone or state.step >= SWITCHED:
            self._services.restart_aktualizr()
        self._fioconfig.release()
        log.warning("the gateway may take no changes of this device's configuration until a rotation is complete")
        return self._rolled_back(state)

    def _rolled_back(self, state: RotationState) -> str:
        reason = f"rolled back, {state.rollback}"
        self.drop(state, reason)
        self.deliver_now()
        return reason

    def way_back_closed(self, state: RotationState) -> str | None:
        """Say why the old identity cannot be used any more, if that is so. Raises what asking the gateway raises."""
        if state.old == NOWHERE:
            return "fioconfig itself had switched to the new certificate, and the old one is not known"
        try:
            self._connections.gateway(state.old).device_config()
        except ServerRefusedError as error:
            if error.status in CERTIFICATE_REFUSALS:
                return f"the gateway refuses the old certificate: {error}"
            raise
        return None

    def tidy(self, state: RotationState) -> None:
        """Remove what only a cut would still have needed."""
        state = self._fioconfig.hold(state)
        try:
            self._steps.settle(state)
        except RefusedError as error:  # the old key is not there any more: it would not help either
            log.warning("%s", error)
        self._device.check_not_in_use(state.old)
        self._lost_journal.clear()
        self._device.store.retire(state.old)
        self._fioconfig.release()
        self._journal.record(None)

    def drop(self, state: RotationState, reason: str) -> None:
        """End a rotation whose new identity is not in use: destroy that, report the end."""
        self._device.discard(state.new)
        self._steps.local_config.forget()
        self._journal.record(None, self.events(state.rotation_id).make(COMPLETED, failure=reason), without=COMPLETED)
        log.info("rotation %s ended: %s", state.rotation_id, reason)

    def give_up(self, state: RotationState, names: IdentityNames) -> str:
        """Leave a device alone whose identity somebody else changed to `names` meanwhile; give the reason, reported.

        What only the new key reads by now is encrypted to the key in use before the new one goes; where the gateway
        refuses that, the key stays for later (lost_journal.py). Raises RefusedError and hsm.errors.TokenError where the
        identity in use is none (nothing is done then), PendingError.
        """
        self._device.open_store()
        self._device.identity(names)
        reason = (
            f"the configuration names {names.key} and {names.certificate}, neither the old identity of rotation "
            f"{state.rotation_id} nor its new one: somebody else changed it, so the rotation is given up"
        )
        try:
            if state.step >= LOCKED:
                self._hand_over(state, names)
            self._device.discard(state.new)
        except ServerRefusedError as error:
            log.warning("key %s is kept, as files on the server may be for that one only: %s", state.new.key, error)
            self._journal.leave(state)
        except (RefusedError, UnsupportedError) as error:  # a part of it is in use, or it is in a store of another kind
            log.info("%s", error)
        self._fioconfig.release()
        self._steps.local_config.forget()
        self._journal.record(None, self.events(state.rotation_id).make(COMPLETED, failure=reason), without=COMPLETED)
        self.deliver_now()
        return reason

    def _hand_over(self, state: RotationState, names: IdentityNames) -> None:
        """Have what the rotation's keys read encrypted to the key in use. Raises ServerRefusedError, PendingError."""
        for source in (state.new, state.old):
            store = self._device.store_of(source)
            if source == NOWHERE or store.find_key(source.key) is None:
                continue
            self._fioconfig.hold(self._journal.rotation or state)
            self._steps.local_config.settle(
                None, partial(store.key, source.key), partial(self._device.store.key, names.key)
            )
            self._move_files(source, names, via=names)

    # Small parts

    def deliver_now(self) -> None:
        """Deliver what waits over the identity in use; what is not taken stays."""
        try:
            self._device.open_store()
            deliver(self._journal, self._connections.gateway(self._device.names_in_use()))
        except FORESEEABLE as error:
            log.info("events are kept for later: %s", describe(error))
            self._journal.wait(error)
