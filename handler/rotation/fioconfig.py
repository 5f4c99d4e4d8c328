"""Stop fioconfig while its configuration changes keys, and start it again."""

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

    `waits_for_us`: fioconfig made this call, so it writes nothing now and is not stopped. If an earlier call stopped
    it, this one starts it without waiting, because systemd may order that start after this call (at boot).
    """

    def __init__(self, journal: Journal, services: Services, *, waits_for_us: bool) -> None:
        self._journal = journal
        self._services = services
        self._waits_for_us = waits_for_us
        self._warned = False

    def hold(self, state: RotationState) -> RotationState:
        """Stop it if it runs, and journal that first, so that the next call starts it again after a power cut.

        Raises PendingError if this call runs inside fioconfig.service, as a remote action does; OSError.
        """
        if self._waits_for_us or state.fioconfig_stopped:
            return state
        if not self._services.available:
            if not self._warned:
                self._warned = True
                log.warning("systemd does not run: make sure that fioconfig does not run during the rotation")
            return state
        if not self._services.is_active(FIOCONFIG):
            return state
        if self._services.contains_us(FIOCONFIG):
            raise PendingError(
                "fioconfig has to be stopped, but this call runs inside fioconfig.service; run it from outside"
            )
        state = replace(state, fioconfig_stopped=True)
        self._journal.record(state)
        if self._services.is_active(FIOCONFIG_PATH):
            self._services.stop(FIOCONFIG_PATH)
        self._services.stop(FIOCONFIG)
        return state

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Start it again at the end in any case, if the pending rotation has stopped it."""
        try:
            yield
        finally:
            try:
                self.release()
            except OSError as error:
                log.warning("cannot journal that fioconfig was started again: %s", describe(error))

    def release(self) -> None:
        """Start it again if the pending rotation has stopped it. Raises OSError."""
        state = self._journal.facts.rotation
        if state is None or not state.fioconfig_stopped:
            return
        self._services.start(FIOCONFIG, wait=not self._waits_for_us)
        if self._services.is_enabled(FIOCONFIG_PATH):
            self._services.start(FIOCONFIG_PATH, wait=not self._waits_for_us)
        self._journal.record(replace(state, fioconfig_stopped=False))
