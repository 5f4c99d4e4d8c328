"""`abort`: give up a pending rotation, if that is possible still."""

import argparse

from handler.console.settings import Settings
from handler.device.device import Device
from handler.rotation.rotator import Rotator

from .change import change


def run(_options: argparse.Namespace, settings: Settings) -> int:
    """Give up, and give the exit status. Raises RenewalError, OSError, OutputError."""
    device = Device(settings.search_paths, settings.storage, settings.config_url, token_wait=settings.token_wait)
    return change(device, settings, lambda rotator: _abort(rotator, settings))


def _abort(rotator: Rotator, settings: Settings) -> str:
    if not rotator.abort():
        return "nothing to do: no rotation is pending"
    asks = f"; {settings.request_file} still asks for a rotation: remove it, or fioconfig has it begun again"
    return "given up; the identity in use is the one from before" + asks * settings.request_file.exists()
