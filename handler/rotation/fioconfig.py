"""Stop fioconfig while its configuration changes keys, and start it again.

fioconfig.service may be about to write config.encrypted for the old key. If fioconfig made this call, it writes nothing
now and is not stopped. If an earlier call stopped it, this one then starts it without waiting, because systemd may
order that start after this call (at boot).
"""

import logging
from dataclasses import replace

from handler.device.services import FIOCONFIG, FIOCONFIG_PATH
from handler.errors import PendingError
from handler.journal.rotation_state import RotationState

from .context import Context

log = logging.getLogger(__name__)


def hold(context: Context) -> RotationState:
    """Stop it if it runs, and journal that first, so that the next call starts it again after a power cut.

    Returns the rotation's state. Raises PendingError if this call runs inside fioconfig.service (a remote action).
    """
    state, services = context.rotation, context.services
    if context.by_fioconfig or state.fioconfig_stopped:
        return state
    if not services.available:
        if not context.memory.warned:
            context.memory.warned = True
            log.warning("systemd does not run: make sure that fioconfig does not run during the rotation")
        return state
    if not services.is_active(FIOCONFIG):
        return state
    if services.contains_us(FIOCONFIG):
        raise PendingError(
            "fioconfig has to be stopped, but this call runs inside fioconfig.service; run it from outside"
        )
    state = context.record(replace(state, fioconfig_stopped=True))
    if services.is_active(FIOCONFIG_PATH):
        services.stop(FIOCONFIG_PATH)
    services.stop(FIOCONFIG)
    return state


def release(context: Context) -> None:
    """Start it again if the pending rotation has stopped it. Raises OSError."""
    state, services = context.journal.facts.rotation, context.services
    if state is None or not state.fioconfig_stopped:
        return
    services.start(FIOCONFIG, wait=not context.by_fioconfig)
    if services.is_enabled(FIOCONFIG_PATH):
        services.start(FIOCONFIG_PATH, wait=not context.by_fioconfig)
    context.record(replace(state, fioconfig_stopped=False))
