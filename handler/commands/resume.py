"""`resume`: continue what is pending."""

import argparse

from handler.console.settings import Settings
from handler.device.device import Device
from handler.journal.pending import read_pending
from handler.rotation.found import Wish
from handler.rotation.rotator import Rotator

from .change import change


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Resume; return the exit status. Raises RenewalError, OSError, OutputError."""
    device = Device(settings.search_paths, settings.storage, settings.config_url, token_wait=settings.token_wait)
    if options.offline:
        return change(device, settings, _resume_offline, offline=True)
    return change(device, settings, lambda rotator: _resume(rotator, settings, unattended=options.unattended))


def _resume_offline(rotator: Rotator) -> str:
    changed = rotator.run(Wish.OFFLINE)
    return "repaired: the configuration fits the key in use" if changed else "nothing to do without a network"


def _resume(rotator: Rotator, settings: Settings, *, unattended: bool) -> str:
    done = rotator.run(Wish.UNATTENDED if unattended else Wish.RESUME)
    pending = read_pending(settings.storage_folder())
    if done:
        kept = pending.kept if pending and pending.rotation_id is None else None
        rolled_back = f"nothing to continue: rotation {kept} was rolled back; correct the cause, then rotate again"
        return rolled_back if kept else ""
    if pending is not None and pending.refused is not None:
        return f"nothing to do: rotation {pending.rotation_id} was refused; `resume` by hand retries it"
    return "nothing to do: no rotation is pending"
