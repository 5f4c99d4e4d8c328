"""After the switch: the new identity is proved, its users are told, the old key goes."""

import logging
from dataclasses import replace

from handler.device import completed_rotations
from handler.device.keystore import IdentityNames
from handler.errors import PendingError, RefusedError, ServerRefusedError
from handler.journal.pending import COMPLETED
from handler.journal.rotation_state import ANNOUNCED, PROVED
from handler.rotation.context import Context
from handler.servers.delivery import deliver
from handler.servers.gateway import CERTIFICATE_REFUSALS

from .lost_journal import LostJournal
from .steps import move_device_config, settle

log = logging.getLogger(__name__)


def prove(context: Context) -> None:
    """Report the completion over the new certificate: taken, it is proved; refused for good, all goes back.

    Raises PendingError, hsm.errors.TokenError, OSError.
    """
    state = context.rotation
    if not state.reported:
        state = replace(state, reported=True)
        context.journal.record(state, context.events(state.rotation_id).make(COMPLETED))
    try:
        deliver(context.journal, context.connections.gateway(state.new))
    except ServerRefusedError as error:
        if error.status in CERTIFICATE_REFUSALS:
            # Its report waits until all is back: where there is no way back, it goes out after all, under its id.
            reason = f"the gateway refused the new certificate: {error}"
            context.journal.record(replace(state, rollback=reason))
            return
        log.warning("the gateway takes the new certificate, but not the events: %s", error)
    context.journal.record(replace(state, step=PROVED))


def bring_files_along(context: Context) -> None:
    """Have the files that were left for the old key encrypted to the new one. Raises PendingError."""
    state = context.rotation
    try:
        move_files(context, state.old, state.new, via=state.new)
    except ServerRefusedError as error:  # the old key must not go before that is done
        raise PendingError(f"the device's files on the server are for the old key still: {error}") from error
    context.journal.record(replace(state, files_left=None))


def move_files(context: Context, old: IdentityNames, new: IdentityNames, via: IdentityNames) -> None:
    """Have the device's files on the server encrypted to `new`; what no key reads stops nothing any more.

    Raises ServerRefusedError, PendingError.
    """
    try:
        move_device_config(context, old, new, via=via)
    except ServerRefusedError:
        raise
    except RefusedError as error:
        log.warning("%s", error)


def tell_users(context: Context) -> None:
    """Record the completion as fioconfig would, and restart what uses the key. Raises OSError."""
    state = context.rotation
    completed_rotations.write(context.device.storage, state.request, state.certificate or "")
    context.services.restart_aktualizr()
    context.journal.record(replace(state, step=ANNOUNCED))
    certificate = context.device.store.certificate(state.new.certificate)
    context.progress.completed(state.rotation_id, state.new, certificate)


def tidy(context: Context, lost_journal: LostJournal) -> None:
    """Remove what only a cut would still have needed."""
    state = context.fioconfig.hold(context.rotation)
    try:
        settle(context, state)
    except RefusedError as error:  # the old key is not there any more: it would not help either
        log.warning("%s", error)
    context.device.check_not_in_use(state.old)
    lost_journal.clear()
    context.device.store.retire(state.old)
    context.fioconfig.release()
    context.journal.record(None)
