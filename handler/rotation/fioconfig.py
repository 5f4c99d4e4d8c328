"""fioconfig outside of its own call: held while its configuration changes keys."""

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import replace

from handler.device.services import FIOCONFIG, FIOCONFIG_PATH, Services
from handler.errors import PendingError, describe
from handler.journal.journal import Journal
from handler.journal.rotation_state import RotationState

log = logging.getLogger(__name__)


class Fioconfig:
    """fioconfig.service, which may be about to write config.encrypted for the old key.

    `waits_for_us`: this is its own call, so it writes nothing meanwhile and is not stopped; its start, where an earlier
    call had stopped it, is not waited for, as that may be ordered after this very call (at boot).
    """

    def __init__(self, journal: Journal, services: Services, *, waits_for_us: bool) -> None:
        self._journal = journal
        self._services = services
        self._waits_for_us = waits_for_us
        self._warned = False

    def hold(self, state: RotationState) -> RotationState:
        """Stop it if it runs, journalled first: whoever goes on after a cut starts it again.

        Raises PendingError if this call runs inside it, as a remote action does, and OSError.
        """
        if self._waits_for_us or state.fioconfig_stopped:
            return state
        if not self._services.available:
            if not self._warned:
                self._warned = True
                log.warning("systemd does not run here: make sure that fioconfig does not run meanwhile")
            return state
        if not self._services.is_active(FIOCONFIG):
            return state
        if self._services.contains_us(FIOCONFIG):
            raise PendingError("fioconfig has to be stopped for this, and would end this call, which runs inside it")
        state = replace(state, fioconfig_stopped=True)
        self._journal.record(state)
        if self._services.is_active(FIOCONFIG_PATH):
            self._services.stop(FIOCONFIG_PATH)
        self._services.stop(FIOCONFIG)
        return state

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Have it started again at the end, however that comes, where a rotation stopped it that is in the journal."""
        try:
            yield
        finally:
            try:
                self.release()
            except OSError as error:
                log.warning("that fioconfig was started again could not be noted: %s", describe(error))

    def release(self) -> None:
        """Start it again if the rotation in the journal stopped it. Raises OSError."""
        state = self._journal.rotation
        if state is None or not state.fioconfig_stopped:
            return
        self._services.start(FIOCONFIG, wait=not self._waits_for_us)
        if self._services.is_enabled(FIOCONFIG_PATH):
            self._services.start(FIOCONFIG_PATH, wait=not self._waits_for_us)
        self._journal.record(replace(state, fioconfig_stopped=False))
