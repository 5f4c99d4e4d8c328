"""The delivery of events in one call: beside the steps in a thread, or at the end."""

import logging

from handler.device.keystore import IdentityNames
from handler.errors import FORESEEABLE, describe
from handler.servers.delivery import Delivery, deliver

from .context import Context

log = logging.getLogger(__name__)

IN_FLIGHT = 5.0
"""Seconds that the switch waits for an event already on its way, and the end of a call for events not yet sent."""


class Deliveries:
    """Delivers what the journal holds. From `stop` on, nothing is sent beside the rotation."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._beside: Delivery | None = None

    def begin(self, names: IdentityNames) -> None:
        """Deliver beside the rotation from now on, as that identity, if that is not done already."""
        if self._beside is None:
            self._beside = Delivery(
                self._context.journal, lambda stop: self._context.connections.new_gateway(names, stop)
            )
            self._beside.start()

    def notify(self) -> None:
        """Say that there is something new."""
        if self._beside is not None:
            self._beside.notify()

    def stop(self) -> None:
        """Let what is on its way arrive, and send nothing more beside the rotation."""
        if self._beside is not None:
            self._beside.stop(IN_FLIGHT)
            self._beside = None

    def drain(self) -> None:
        """Let what waits be delivered beside the rotation, if that is done, and end it."""
        if self._beside is not None:
            self._beside.drain(IN_FLIGHT)
            self._beside.stop(IN_FLIGHT)
            self._beside = None

    def deliver_now(self) -> None:
        """Deliver what waits over the identity in use; what is not taken stays."""
        if self._beside is not None:
            self.drain()
            return
        context = self._context
        try:
            context.device.open_store()
            deliver(context.journal, context.connections.gateway(context.device.names_in_use()))
        except FORESEEABLE as error:
            log.info("events are kept for later: %s", describe(error))
            context.journal.wait(error)
