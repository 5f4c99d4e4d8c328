"""Shared by the commands that change something: the device's lock, and the final message."""

import logging
import sys
from collections.abc import Callable
from pathlib import Path

from handler.console.journald import JOURNALD
from handler.console.output import say, tell
from handler.console.progress import LogProgress, make_progress
from handler.console.settings import Settings
from handler.console.terminal import Console
from handler.device.device import Device
from handler.device.lock import device_lock
from handler.device.storage import FOLDER, exposure, remove_leftovers
from handler.errors import FORESEEABLE, describe
from handler.exit_status import DONE, PENDING, SWITCHED
from handler.journal.pending import Pending, read_pending
from handler.journal.rotation_state import ANNOUNCED
from handler.rotation.rotator import Rotator
from handler.servers.http import Limits

from .outcome import GOES_ON, explain, what_next

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
        progress = make_progress(sys.stdout, Console.of(sys.stdout).width)
        rotator = Rotator(device, progress, called_by_fioconfig=by_fioconfig, limits=limits)
        JOURNALD.rotation_id = lambda: rotator.rotation_id
        before = read_pending(device.storage)
        if before is not None and before.rotation_id is not None:  # a new rotation is refused instead
            for text in exposure(device.storage):
                log.warning("%s", text)
        try:
            status = _done(device, settings, rotator, work, progress, tell_of_rest=not (by_fioconfig or offline))
        except BaseException:
            # In any case fioconfig has to exit: otherwise it stores a configuration for the old key.
            if not (by_fioconfig and rotator.switched):
                raise
            log.critical("a bug in this program; the key was switched before", exc_info=True)
        return SWITCHED if by_fioconfig and rotator.switched else status


def _done(
    device: Device,
    settings: Settings,
    rotator: Rotator,
    work: Callable[[Rotator], str],
    progress: LogProgress,
    *,
    tell_of_rest: bool,
) -> int:
    before = read_pending(device.storage)
    try:
        if said := work(rotator):
            tell(said)
        status = DONE
    except FORESEEABLE as error:
        known = sys.stderr.isatty() and describe(error) == progress.shown
        status = explain(error, what_next(settings), known=known)
    except KeyboardInterrupt:  # caught here, because fioconfig has to learn of a switch even then
        say("interrupted" + what_next(settings))
        status = PENDING
    finally:
        rotator.close()
    return _left(device.storage, before) if status == DONE and tell_of_rest else status


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
