"""The delivery of events in one call: in a thread beside the steps, or at the end."""

import logging

from handler.device.keystore import IdentityNames
from handler.errors import FORESEEABLE, describe
from handler.servers.delivery import Delivery, deliver

from .context import Context

log = logging.getLogger(__name__)

IN_FLIGHT = 5.0
"""Seconds: the switch waits for an event in flight, and the end of a call for events not sent yet."""


class Deliveries:
    """Delivers the events of the journal. After `stop`, nothing is sent beside the rotation."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._beside: Delivery | None = None

    def begin(self, names: IdentityNames) -> None:
        """Start to deliver beside the rotation, as that identity; does nothing if started."""
        if self._beside is None:
            self._beside = Delivery(
                self._context.journal, lambda stop: self._context.connections.new_gateway(names, stop)
            )

    def notify(self) -> None:
        """Signal a new event."""
        if self._beside is not None:
            self._beside.notify()

    def stop(self, *, drain: bool = False) -> None:
        """Wait for an event in flight, or deliver what waits (`drain`); then send nothing more beside the rotation."""
        if self._beside is not None:
            self._beside.end(IN_FLIGHT, drain=drain)
            self._beside = None

    def deliver_now(self) -> None:
        """Deliver what waits with the identity in use; the rest stays in the journal."""
        context, beside = self._context, self._beside
        if beside is not None:
            self.stop(drain=True)
            if beside.failure is not None:
                context.journal.wait(beside.failure)
            return
        try:
            context.device.open_store()
            deliver(context.journal, context.connections.gateway(context.device.names_in_use()))
        except FORESEEABLE as error:
            log.info("keeping events for later: %s", describe(error))
            context.journal.wait(error)
