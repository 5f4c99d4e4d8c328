"""The loop that runs everything: look (look.py), decide (rules.py), act (actions.py).

An exception of an action ends the call, after the rules have cleaned up.
"""

import logging

from handler.device.device import Device
from handler.device.request import RotationRequest
from handler.device.services import Services
from handler.errors import FORESEEABLE, describe, is_final
from handler.servers.http import Limits

from . import deliveries, fioconfig
from .actions import act
from .context import Context, Memory, Progress
from .found import Call, Wish
from .look import BY_HAND, look, why_early
from .rules import Action, next_action

log = logging.getLogger(__name__)


class Rotator:
    """Runs rotations on one device, one at a time; the caller holds the device's lock.

    One object makes one call: `run` or `refuse`. Both raise RefusedError, PendingError, hsm.errors.TokenError, OSError.
    `called_by_fioconfig` as in `Context`.
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

    @property
    def switched(self) -> bool:
        """Whether this call switched the key in either direction: fioconfig has loaded the previous one."""
        return self._context.switched

    @property
    def rotation_id(self) -> str | None:
        """The ROTATIONID that this call works on now."""
        facts, memory = self._context.journal.facts, self._context.memory
        request = facts.rotation.request if facts.rotation else facts.requested
        return memory.asked if request is None or memory.wish is Wish.REFUSED else request.rotation_id

    def run(self, wish: Wish, request: RotationRequest | None = None) -> bool:
        """Do what is wanted; tell whether there was anything to do. `request`: what to do after what is pending."""
        return self._run(Memory(wish, request, request.rotation_id if request else None))

    def refuse(self, rotation_id: str, error: Exception) -> str:
        """Report that the request for that rotation is refused because of `error`; raise it."""
        try:
            self._run(Memory(Wish.REFUSED, None, rotation_id, refused=(rotation_id, error), failure=error))
        except FORESEEABLE as failure:
            if failure is not error:
                log.info("the refusal is not reported: %s", describe(failure))
        raise error

    def close(self) -> None:
        """Close connections, threads and the token."""
        deliveries.end(self._context)
        self._context.connections.close()
        self._context.device.close()

    def _run(self, memory: Memory) -> bool:
        context = self._context
        context.memory = memory
        context.journal.load()
        try:
            context.journal.settle_marker()
        except OSError as error:  # a full disk does not prevent what needs no space
            log.info("cannot update the daemon's marker: %s", describe(error))
        memory.early = why_early(context)
        try:
            while (action := next_action(look(context))) is not Action.DONE:
                try:
                    act(context, action)
                except FORESEEABLE as error:
                    _failed(memory, action, error)
            self._note_failure(memory)
        finally:
            if memory.wish not in {Wish.OFFLINE, Wish.REFUSED}:
                self._release_fioconfig()
        if memory.failure is not None:
            raise memory.failure
        if memory.wish is Wish.OFFLINE:
            return memory.changed or context.settled
        return memory.changed or bool(memory.done - {Action.NOTE})

    def _release_fioconfig(self) -> None:
        """Start fioconfig again, if the pending rotation has stopped it."""
        try:
            fioconfig.release(self._context)
        except OSError as error:
            log.warning("cannot journal that fioconfig was started again: %s", describe(error))

    def _note_failure(self, memory: Memory) -> None:
        """Journal why this call failed, for the daemon and `status`."""
        if memory.failure is None or memory.wish is Wish.OFFLINE:
            return
        deliveries.end(self._context, drain=True)
        if is_final(memory.failure) or Action.WAIT in memory.done:
            return
        try:
            self._context.journal.wait(memory.failure)
        except OSError as error:
            log.warning("after that failure: %s", describe(error))
        state = self._context.journal.facts.rotation
        if memory.wish is Wish.ABORT and state is not None and state.rollback == BY_HAND:
            log.warning("the abort is recorded: the rotation is given up as soon as possible")


def _failed(memory: Memory, action: Action, error: Exception) -> None:
    """End the call with this error, unless it already failed."""
    if memory.failure is not None:
        if describe(error) != describe(memory.failure):
            log.warning("after that failure: %s", describe(error))
        memory.call = Call.ENDS
        return
    memory.failure = error
    memory.call = Call.REFUSED if is_final(error) and action is not Action.UNMARK else Call.ENDS
