"""After the proof: the new identity's users are told, the old key goes."""

import logging
import time
from dataclasses import replace

from handler.device import completed_rotations
from handler.device.keystore import IdentityNames
from handler.errors import FORESEEABLE, PendingError, RefusedError, ServerRefusedError, describe
from handler.journal.pending import COMPLETED
from handler.journal.rotation_state import ANNOUNCED
from handler.rotation.context import Context

from .lost_journal import LostJournal
from .steps import move_device_config, settle

log = logging.getLogger(__name__)


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


def run_hooks(context: Context, result: str) -> str:
    """Run the hooks of others who use the certificate; say what failed. Their time is not the network's."""
    state, began = context.rotation, time.monotonic()
    names = {"OLD": state.old, "NEW": state.new}
    environment = {f"{age}_KEY": each.key for age, each in names.items()}
    environment |= {f"{age}_CERTIFICATE": each.certificate for age, each in names.items()}
    environment |= {"ROTATIONID": state.rotation_id, "RESULT": result, "STORAGE_DIR": str(context.device.storage)}
    failed = context.services.run_hooks(environment)
    context.deadline.extend(time.monotonic() - began)
    return failed


def tell_users(context: Context, hooks_failed: str | None) -> None:
    """Record the completion as fioconfig would, and restart what uses the key. Raises OSError.

    Hooks that failed are reported in another event of success: the gateway shows a device as troubled otherwise.
    """
    state = context.rotation
    completed_rotations.write(context.device.storage, state.request, state.certificate or "")
    context.services.restart_aktualizr()
    event = context.events(state.rotation_id).make(COMPLETED, note=hooks_failed)
    context.journal.record(replace(state, step=ANNOUNCED), *([event] if hooks_failed else []))
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
    kept = context.journal.kept
    if kept is not None and kept.rotation.new != state.new:
        forget(context, kept.rotation.new)
    context.fioconfig.release()
    context.journal.record(None, keep=None)


def forget(context: Context, names: IdentityNames) -> None:
    """Destroy an identity that was kept; what cannot be destroyed any more is left there, with a warning."""
    try:
        context.device.discard(names)
    except FORESEEABLE as error:
        log.warning("%s and %s are left there: %s", names.key, names.certificate, describe(error))
