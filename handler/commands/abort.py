"""`abort`: give up a pending rotation, if that is still possible."""

import argparse
import contextlib
from pathlib import Path

from handler.console.settings import Settings
from handler.device import completed_rotations
from handler.device.device import Device
from handler.device.request import Overrides, read_request
from handler.errors import RequestRefusedError
from handler.rotation.found import Wish
from handler.rotation.rotator import Rotator

from .change import change


def run(_options: argparse.Namespace, settings: Settings) -> int:
    """Give up; return the exit status. Raises RenewalError, OSError, OutputError."""
    device = Device(settings.search_paths, settings.storage, settings.config_url, token_wait=settings.token_wait)
    return change(device, settings, lambda rotator: _abort(rotator, device, settings.request_file))


def _abort(rotator: Rotator, device: Device, request_file: Path) -> str:
    if not rotator.run(Wish.ABORT):
        return "nothing to do: no rotation is pending"
    request = None
    with contextlib.suppress(RequestRefusedError):
        request = read_request(request_file, Overrides(), token=False, default_rotation_id=None)
    said = "aborted; the old identity is in use"
    if request is None or request.rotation_id in completed_rotations.rotation_ids(device.storage):
        return said
    asks = f"{request_file} still requests rotation {request.rotation_id}"
    return f"{said}; {asks}: remove it with fioctl, or fioconfig starts it again"
