"""Something else in the place of each file that the program reads: nothing waits for it, and each command says why."""

import copy
import os
import shutil
from pathlib import Path

import pytest

from handler.exit_status import DONE, PENDING, REFUSED, SWITCHED
from tests.simulators.device import REPOSITORY

from .daemons import cut_off

COMMANDS = [(), ("resume",), ("resume", "--offline"), ("abort",), ("status",), ("check",), ("log",), ("slots",)]
KNOWN = ("current", "next_pubkey", "denied", "config", "config_device")
"""What the gateway knows of the device."""
ENDS = {DONE, PENDING, REFUSED, SWITCHED}
SPY = """
import os, sys
notes = os.open(os.environ["NOTES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
def note(event, arguments):
    if event == "open" and not isinstance(arguments[0], int) and not (arguments[2] or 0) & os.O_ACCMODE:
        os.write(notes, os.path.abspath(os.fsencode(arguments[0])) + b"\\n")
sys.addaudithook(note)
"""


class Pending:
    """A device in the middle of a rotation, that can be put back to how it was."""

    def __init__(self, factory, folder, until):
        self.device, self.kept = factory.device, folder / "kept"
        self.spy = folder / "spy"
        self.spy.mkdir()
        (self.spy / "sitecustomize.py").write_text(SPY)
        cut_off(factory, until)
        shutil.copytree(self.device.folder, self.kept, symlinks=True)
        self.gateway = factory.gateway
        self.known = copy.deepcopy({name: getattr(self.gateway, name) for name in KNOWN})

    def restore(self):
        for top in ("var", "etc", "run"):
            shutil.rmtree(self.device.folder / top)
            shutil.copytree(self.kept / top, self.device.folder / top, symlinks=True)
        for name, value in copy.deepcopy(self.known).items():
            setattr(self.gateway, name, value)

    def read_by(self, command):
        """Give the files of the device that a command opens to read."""
        self.restore()
        notes = self.spy / "notes"
        notes.unlink(missing_ok=True)
        path = f"{self.spy}:{REPOSITORY}"
        self.device.run(*command, environment={"NOTES": str(notes), "PYTHONPATH": path})
        named = {Path(line) for line in notes.read_text().splitlines()}
        found = {path.relative_to(self.device.folder) for path in named if path.is_relative_to(self.device.folder)}
        return sorted(path for path in found if (self.kept / path).is_file())


@pytest.mark.timeout(600)
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: "-".join(command) or "handler")
def test_a_fifo_in_the_place_of_a_file_is_not_waited_for(files, tmp_path, until, command):
    pending = Pending(files, tmp_path, until)
    names = pending.read_by(command)
    assert names
    for name in names:
        pending.restore()
        place = files.device.folder / name
        place.unlink()
        os.mkfifo(place)
        done = files.device.run(*command, timeout=60)
        assert done.returncode in ({0, 1, 2} if command == ("check",) else ENDS), (name, done.stderr)
        assert "Traceback" not in done.stderr, (name, done.stderr)
        assert done.returncode in {DONE, SWITCHED} or done.stdout + done.stderr, name
