"""The steps of a rotation run one after the other: each journalled and reported, its event delivered meanwhile."""

import logging
from dataclasses import replace

from handler.console.progress import Progress
from handler.device.device import Device
from handler.errors import FORESEEABLE, OfflineError, RenewalError, describe, is_final, until
from handler.journal.journal import SWITCHED, Journal, RotationState
from handler.journal.pending import COMPLETED, LOCKED
from handler.servers.connections import Connections
from handler.servers.events import Delivery
from hsm.errors import TokenError

from .endings import Ending
from .steps import Step, Steps

log = logging.getLogger(__name__)

IN_FLIGHT = 5.0
"""Seconds that the switch waits for an event already on its way, and the end of a call for events not yet sent."""


class Runner:
    """Runs the steps on one device."""

    def __init__(
        self,
        device: Device,
        journal: Journal,
        connections: Connections,
        steps: Steps,
        ending: Ending,
        progress: Progress,
    ) -> None:
        self._device = device
        self._journal = journal
        self._connections = connections
        self._steps = steps
        self._ending = ending
        self._progress = progress
        self._delivery: Delivery | None = None

    def run(self, state: RotationState, *, switched: bool) -> RotationState:
        """Run those that are left, and give the state after them. `switched`: a cut came inside the last one.

        Raises RefusedError, PendingError, hsm.errors.TokenError, OSError: journalled and reported, and the rotation is
        dropped where it was refused before anything depends on it.
        """
        steps = self._steps.all[state.step :]
        if state.certificate is None and state.step > 0:
            steps = (self._steps.all[0], *steps)
        if switched:
            steps = self._steps.all[-1:]  # cut off inside the last one
        else:
            self._delivery = Delivery(self._journal, lambda stop: self._connections.new_gateway(state.old, stop))
            self._delivery.start()
            if state.step < LOCKED:
                self._connections.prepare_gateway(state.old)
        for step in steps:
            if step.number == SWITCHED and self._delivery is not None:
                # From the switch on nothing else may show the gateway a certificate: the proof comes first.
                self._delivery.stop(IN_FLIGHT)
            state = self._run_step(step, state)
        return state

    def _run_step(self, step: Step, state: RotationState) -> RotationState:
        self._progress.step_started(step.number, step.name)
        try:
            done = replace(step.run(state), step=max(state.step, step.number))
            left = None if done.files_left == state.files_left else done.files_left
            state = done
            self._journal.record(state, self._ending.events(state.rotation_id).make(step.name, failure=left))
        except FORESEEABLE as error:
            self._progress.step_failed(describe(error))
            self._step_failed(step, error)
            raise
        if self._delivery is not None:
            self._delivery.notify()
        if left is None:
            self._progress.step_done()
        else:
            self._progress.step_failed(left)
        return state

    def _step_failed(self, step: Step, error: RenewalError | TokenError | OSError) -> None:
        """Journal and report the attempt; drop the rotation where it was refused and nothing depends on it yet."""
        state, reason = self._journal.rotation, describe(error)
        if state is None:
            return
        events = self._ending.events(state.rotation_id)
        waiting = self._journal.waiting
        # That a server asks to come back later is reported once, that there is no network not at all.
        known = isinstance(error, OfflineError) or (waiting is not None and None not in (waiting.until, until(error)))
        reported = [] if known else [events.make(step.name, failure=reason)]
        try:
            if not is_final(error) or self._device.names_in_use(state.new) == state.new:
                self._journal.record(state, *reported)
            elif not state.locked:
                self._journal.record(replace(state, refused=reason), *reported)
                self._ending.drop(state, reason)
            else:
                self._journal.record(replace(state, refused=reason), *reported, events.make(COMPLETED, failure=reason))
        except FORESEEABLE as second:
            # The first error is the one to tell; what could not be cleaned up is found by the next call.
            log.warning("after that failure: %s", describe(second))
        if self._delivery is not None:
            self._delivery.drain(IN_FLIGHT)

    def close(self) -> None:
        """Let go of the delivery's thread and connection, once what is on its way has arrived."""
        if self._delivery is not None:
            self._delivery.stop(IN_FLIGHT)
