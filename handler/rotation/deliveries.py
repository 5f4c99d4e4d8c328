"""The delivery of events in one call: in a thread beside the steps, or at the end."""

import logging

from handler.device.keystore import IdentityNames
from handler.errors import FORESEEABLE, describe
from handler.servers.connections import Connections
from handler.servers.delivery import Delivery, deliver
from handler.servers.http import Limits
from handler.servers.transport import Deadline

from .context import Context

log = logging.getLogger(__name__)

REPORT_LIMITS = Limits(total=10.0, connect=5.0, read=5.0, retry_delays=())
"""For events of a refused request."""
IN_FLIGHT = 5.0
"""Seconds: the switch waits for an event in flight, and the end of a call for events not sent yet."""


def begin(context: Context, names: IdentityNames) -> None:
    """Start to deliver beside the rotation, as that identity; does nothing if started."""
    if context.beside is None:
        context.beside = Delivery(context.journal, lambda stop: context.connections.new_gateway(names, stop))


def end(context: Context, *, drain: bool = False) -> None:
    """Wait for an event in flight, or deliver what waits (`drain`); then send nothing more beside the rotation."""
    beside, context.beside = context.beside, None
    if beside is not None:
        beside.end(IN_FLIGHT, drain=drain)


def deliver_now(context: Context) -> None:
    """Deliver what waits with the identity in use; the rest stays in the journal."""
    context.memory.delivered = True
    if context.memory.refused is not None:  # fioconfig is not kept waiting for that
        context.connections.close()
        context.connections = Connections(context.device, Deadline(REPORT_LIMITS.total), REPORT_LIMITS)
    if (beside := context.beside) is not None:
        end(context, drain=True)
        if beside.failure is not None:
            context.journal.wait(beside.failure)
        return
    try:
        context.device.open_store()
        deliver(context.journal, context.connections.gateway(context.device.names_in_use()))
    except FORESEEABLE as error:
        log.info("keeping events for later: %s", describe(error))
        context.journal.wait(error)
