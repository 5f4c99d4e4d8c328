"""A bug in the program, in a call by fioconfig: a key that was switched is never kept from fioconfig."""

import argparse
from pathlib import Path

import pytest

from handler.commands.change import change
from handler.console.settings import Settings
from handler.device.device import Device
from handler.device.request import Overrides, read_request
from handler.exit_status import DONE, SWITCHED
from handler.rotation.found import Wish
from tests.invariants import broken_invariants

from .in_process import call

ID = "certs-fault"
pytestmark = pytest.mark.requested(ID)
FAULTS = [
    RuntimeError("a bug"),
    MemoryError(),
    RecursionError(),
    SystemExit(1),
    UnicodeDecodeError("utf-8", b"", 0, 1, ""),
]


def called_by_fioconfig(device, fault, *, rotates):
    """Call the handler, which meets a fault after the rotation, or before it."""
    environment = device.environment()
    settings = Settings.of(argparse.Namespace(sota=None, storage_dir=None), environment)
    request = read_request(Path(environment["CONFIG_FILE"]), Overrides(), token=False, default_rotation_id=None)

    def work(rotator):
        if rotates:
            rotator.run(Wish.ROTATE, request)
        raise fault

    return change(Device(settings.search_paths, settings.storage), settings, work, by_fioconfig=True)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
def test_a_fault_after_the_switch_tells_fioconfig_of_it(files, fault, caplog):
    assert called_by_fioconfig(files.device, fault, rotates=True) == SWITCHED
    assert "a bug in this program; the key was switched before" in caplog.text
    assert call(files.device, "resume").status == DONE
    assert broken_invariants(files, ID, completed=True) == []


def test_a_fault_before_the_switch_is_a_fault(files):
    old = files.device.current_identity()
    with pytest.raises(RuntimeError):
        called_by_fioconfig(files.device, RuntimeError("a bug"), rotates=False)
    assert files.device.current_identity() == old
