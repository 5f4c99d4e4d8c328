"""`abort`: give up a pending rotation, if that is still possible."""

import argparse
from pathlib import Path

from handler.console.settings import Settings
from handler.device import completed_rotations
from handler.device.device import Device
from handler.device.request import Overrides, read_request
from handler.errors import RequestRefusedError
from handler.rotation.rotator import Rotator

from .change import change


def run(_options: argparse.Namespace, settings: Settings) -> int:
    """Give up; return the exit status. Raises RenewalError, OSError, OutputError."""
    device = Device(settings.search_paths, settings.storage, settings.config_url, token_wait=settings.token_wait)
    return change(device, settings, lambda rotator: _abort(rotator, device, settings.request_file))


def _abort(rotator: Rotator, device: Device, request_file: Path) -> str:
    if not rotator.abort():
        return "nothing to do: no rotation is pending"
    asked = _asked_for(device, request_file)
    asks = f"; {request_file} still requests rotation {asked}: remove it with fioctl, or fioconfig starts it again"
    return f"aborted; the old identity is in use{asks if asked else ''}"


def _asked_for(device: Device, request_file: Path) -> str | None:
    """Return the ROTATIONID that fioconfig would start next; None without a request, or if it is complete."""
    try:
        request = read_request(request_file, Overrides(), token=False, default_rotation_id=None)
    except RequestRefusedError:
        return None
    done = completed_rotations.rotation_ids(device.storage)
    return None if request is None or request.rotation_id in done else request.rotation_id
