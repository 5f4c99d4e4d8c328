"""Shared by the commands that change something: the device's lock, and the final message."""

import contextlib
import logging
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from handler.console.journald import JOURNALD
from handler.console.output import tell
from handler.console.progress import make_progress
from handler.console.settings import Settings
from handler.device import completed_rotations
from handler.device.device import Device
from handler.device.lock import device_lock
from handler.device.request import Overrides, read_request, readable_rotation_id
from handler.device.storage import FOLDER, exposure, remove_leftovers
from handler.errors import FORESEEABLE
from handler.exit_status import DONE, PENDING, SWITCHED
from handler.journal.journal import Journal
from handler.journal.pending import Pending, read_pending
from handler.journal.rotation_state import ANNOUNCED
from handler.rotation.rotator import Rotator
from handler.servers.http import Limits

from .outcome import GOES_ON, status_of

log = logging.getLogger("renew-client-cert")


def change(
    device: Device,
    settings: Settings,
    work: Callable[[Rotator], str],
    *,
    by_fioconfig: bool = False,
    offline: bool = False,
) -> int:
    """Do `work` under the device's lock and print the text that it returns; return the exit status.

    Raises RenewalError and OSError if the lock cannot be taken; OutputError.
    """
    limits = Limits()
    with device_lock(device.storage, limits.lock_wait):
        for folder in (*device.folders, device.storage / FOLDER):
            remove_leftovers(folder)
        progress = make_progress(sys.stdout)
        rotator = Rotator(device, progress, called_by_fioconfig=by_fioconfig, limits=limits)
        JOURNALD.rotation_id = lambda: rotator.rotation_id
        before, asked = read_pending(device.storage), readable_rotation_id(settings.request_file, Overrides())
        if before is not None and before.rotation_id is not None:  # a new rotation is refused instead
            for text in exposure(device.storage):
                log.warning("%s", text)
        try:
            with contextlib.closing(rotator):
                status = status_of(partial(_done, rotator, work), settings, lambda: progress.shown)
            if readable_rotation_id(settings.request_file, Overrides()) not in {None, asked}:
                with contextlib.suppress(*FORESEEABLE):
                    _note(device, settings.request_file)
            if status == DONE and not (by_fioconfig or offline):
                status = _left(device.storage, before)
        except BaseException:
            # In any case fioconfig has to exit: otherwise it stores a configuration for the old key.
            if not (by_fioconfig and rotator.switched):
                raise
            log.critical("a bug in this program; the key was switched before", exc_info=True)
        return SWITCHED if by_fioconfig and rotator.switched else status


def _done(rotator: Rotator, work: Callable[[Rotator], str]) -> int:
    if said := work(rotator):
        tell(said)
    return DONE


def _note(device: Device, path: Path) -> None:
    """Journal a request that came during this call: fioconfig's own call for it may have given up on the lock."""
    request = read_request(path, Overrides(), token=device.token is not None, default_rotation_id=None)
    pending = read_pending(device.storage)
    known = {*completed_rotations.rotation_ids(device.storage), pending and pending.rotation_id}
    if request is not None and request.rotation_id not in known:
        journal = Journal(device.storage)
        journal.load()
        journal.request(request)
        log.warning("rotation %s was requested meanwhile%s", request.rotation_id, GOES_ON)


def _left(storage: Path, before: Pending | None) -> int:
    """Report what became of the rest of a rotation (`before`), and warn of what is left; return the exit status."""
    left = read_pending(storage)
    if before is not None and before.step == ANNOUNCED and (left is None or left.rotation_id != before.rotation_id):
        tell(f"cleaned up after rotation {before.rotation_id}: the old key is no longer needed")
    if left is not None and left.rotation_id is None and left.undelivered:
        why = f": {left.waiting.reason}" if left.waiting else ""
        log.warning("not delivered yet: %s%s%s", _events(left.undelivered), why, GOES_ON)
        return PENDING
    if left is None and before is not None and before.rotation_id is None and before.undelivered:
        tell(f"delivered: {_events(before.undelivered)}")
    return DONE


def _events(count: int) -> str:
    return "1 event" if count == 1 else f"{count} events"
