"""After the proof: restart the users of the new identity, remove the old key."""

import logging
import time
from dataclasses import replace

from handler.device import completed_rotations, hooks
from handler.device.keystore import IdentityNames
from handler.errors import FORESEEABLE, PendingError, RefusedError, ServerRefusedError, describe
from handler.journal.pending import COMPLETED
from handler.journal.rotation_state import ANNOUNCED, PROVED
from handler.rotation import fioconfig
from handler.rotation.context import Context

from . import lost_journal
from .steps import move_device_config, settle

log = logging.getLogger(__name__)


def bring_files_along(context: Context) -> None:
    """Encrypt the files that were left for the old key to the new one. Raises PendingError."""
    state = context.rotation
    try:
        move_files(context, state.old, state.new, via=state.new)
    except ServerRefusedError as error:  # the old key has to stay until then
        raise PendingError(f"the device's files on the server are still encrypted to the old key: {error}") from error
    context.record(replace(state, files_left=None))


def move_files(context: Context, old: IdentityNames, new: IdentityNames, via: IdentityNames) -> None:
    """Encrypt the files on the server to `new`; warn of unreadable values. Raises ServerRefusedError, PendingError."""
    try:
        move_device_config(context, old, new, via=via)
    except ServerRefusedError:
        raise
    except RefusedError as error:
        log.warning("%s", error)


def run_hooks(context: Context) -> None:
    """Run the hooks, and remember what failed. Their time does not count as network time."""
    state, began = context.rotation, time.monotonic()
    result = "success" if state.step >= PROVED else "rolled-back"
    names = {"OLD": state.old, "NEW": state.new}
    environment = {f"{age}_KEY": each.key for age, each in names.items()}
    environment |= {f"{age}_CERTIFICATE": each.certificate for age, each in names.items()}
    environment |= {"ROTATIONID": state.rotation_id, "RESULT": result, "STORAGE_DIR": str(context.device.storage)}
    context.memory.hooks = hooks.run_hooks(context.services.hooks, environment)
    context.deadline.extend(time.monotonic() - began)


def tell_users(context: Context) -> None:
    """Record the completion as fioconfig would, and restart what uses the key. Raises OSError.

    Failed hooks are reported in another event of success: otherwise the gateway shows the device as failed.
    """
    memory, state = context.memory, context.rotation
    completed_rotations.write(context.device.storage, state.request, state.certificate or "")
    context.services.restart_aktualizr()
    event = context.events(state.rotation_id).make(COMPLETED, note=memory.hooks)
    context.record(replace(state, step=ANNOUNCED), *([event] if memory.hooks else []))
    certificate = context.device.store.certificate(state.new.certificate)
    context.progress.completed(state.rotation_id, state.new, certificate)
    memory.told, memory.hooks = True, None


def tidy(context: Context) -> None:
    """Remove what is needed only until the rotation is complete."""
    state = fioconfig.hold(context)
    try:
        settle(context)
    except RefusedError as error:  # the old key is gone, so it cannot help
        log.warning("%s", error)
    context.device.check_not_in_use(state.old)
    if unmended := lost_journal.repair(context):
        log.warning(lost_journal.LEFTOVERS, describe(unmended))
    context.device.store.retire(state.old)
    kept = context.journal.facts.kept
    if kept is not None and kept.rotation.new != state.new:
        _discard_kept(context)
    fioconfig.release(context)
    context.journal.record(None, keep=None)


def forget(context: Context) -> None:
    """Destroy the kept identity, and journal that. Raises hsm.errors.TokenError, OSError."""
    context.device.open_store()
    _discard_kept(context)
    context.journal.record(None, keep=None)


def _discard_kept(context: Context) -> None:
    """Destroy the kept identity; warn if that fails."""
    names = context.kept.rotation.new
    try:
        context.device.discard(names)
    except FORESEEABLE as error:
        log.warning("cannot remove %s and %s: %s", names.key, names.certificate, describe(error))
