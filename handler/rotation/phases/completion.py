"""After the proof: restart the users of the new identity, remove the old key."""

import logging
import time
from dataclasses import replace

from handler.device import completed_rotations, hooks
from handler.device.keystore import IdentityNames
from handler.errors import FORESEEABLE, PendingError, RefusedError, ServerRefusedError, describe
from handler.journal.pending import COMPLETED
from handler.journal.rotation_state import ANNOUNCED
from handler.rotation.context import Context

from .lost_journal import LostJournal
from .steps import move_device_config, settle

log = logging.getLogger(__name__)


def bring_files_along(context: Context) -> None:
    """Encrypt the files that were left for the old key to the new one. Raises PendingError."""
    state = context.rotation
    try:
        move_files(context, state.old, state.new, via=state.new)
    except ServerRefusedError as error:  # the old key has to stay until then
        raise PendingError(f"the device's files on the server are still encrypted to the old key: {error}") from error
    context.journal.record(replace(state, files_left=None))


def move_files(context: Context, old: IdentityNames, new: IdentityNames, via: IdentityNames) -> None:
    """Encrypt the device's files on the server to `new`; warn of values that no key can read.

    Raises ServerRefusedError, PendingError.
    """
    try:
        move_device_config(context, old, new, via=via)
    except ServerRefusedError:
        raise
    except RefusedError as error:
        log.warning("%s", error)


def run_hooks(context: Context, result: str) -> str:
    """Run the hooks; return what failed, in words. Their time does not count as network time."""
    state, began = context.rotation, time.monotonic()
    names = {"OLD": state.old, "NEW": state.new}
    environment = {f"{age}_KEY": each.key for age, each in names.items()}
    environment |= {f"{age}_CERTIFICATE": each.certificate for age, each in names.items()}
    environment |= {"ROTATIONID": state.rotation_id, "RESULT": result, "STORAGE_DIR": str(context.device.storage)}
    failed = hooks.run_hooks(context.services.hooks, environment)
    context.deadline.extend(time.monotonic() - began)
    return failed


def tell_users(context: Context, hooks_failed: str | None) -> None:
    """Record the completion as fioconfig would, and restart what uses the key. Raises OSError.

    Failed hooks are reported in another event of success: otherwise the gateway shows the device as failed.
    """
    state = context.rotation
    completed_rotations.write(context.device.storage, state.request, state.certificate or "")
    context.services.restart_aktualizr()
    event = context.events(state.rotation_id).make(COMPLETED, note=hooks_failed)
    context.journal.record(replace(state, step=ANNOUNCED), *([event] if hooks_failed else []))
    certificate = context.device.store.certificate(state.new.certificate)
    context.progress.completed(state.rotation_id, state.new, certificate)


def tidy(context: Context, lost_journal: LostJournal) -> None:
    """Remove what is needed only until the rotation is complete."""
    state = context.fioconfig.hold(context.rotation)
    try:
        settle(context, state)
    except RefusedError as error:  # the old key is gone, so it cannot help
        log.warning("%s", error)
    context.device.check_not_in_use(state.old)
    lost_journal.clear()
    context.device.store.retire(state.old)
    kept = context.journal.facts.kept
    if kept is not None and kept.rotation.new != state.new:
        forget(context, kept.rotation.new)
    context.fioconfig.release()
    context.journal.record(None, keep=None)


def forget(context: Context, names: IdentityNames) -> None:
    """Destroy the kept identity; warn if that fails."""
    try:
        context.device.discard(names)
    except FORESEEABLE as error:
        log.warning("cannot remove %s and %s: %s", names.key, names.certificate, describe(error))
