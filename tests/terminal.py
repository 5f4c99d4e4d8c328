"""A terminal of any width (a pty), and the program on it."""

import fcntl
import os
import pty
import struct
import subprocess
import termios
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tests.simulators.device import REPOSITORY, Device


@dataclass(frozen=True)
class Shown:
    """How a command ended, and everything that showed on its terminal."""

    status: int
    text: str

    @property
    def lines(self) -> list[str]:
        return self.text.splitlines()


def make_terminal(columns: int = 0) -> tuple[int, int]:
    """Give our end and the program's; 0 columns: it does not know its size, as a serial line."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24 if columns else 0, columns, 0, 0))
    return ours, theirs


def read_all(ours: int) -> str:
    """Read what shows until the other end is closed, then close ours."""
    shown = b""
    try:
        while chunk := os.read(ours, 4096):
            shown += chunk
    except OSError:
        pass  # how Linux tells that the other end is closed
    finally:
        os.close(ours)
    return shown.decode().replace("\r\n", "\n")


def on_terminal(
    device: Device, *arguments: str, environment: Mapping[str, str] | None = None, columns: int = 0
) -> Shown:
    """Run the program with output and errors on one terminal."""
    return shown_by(device.command(*arguments), device.environment() | dict(environment or {}), columns)


def shown_by(command: Sequence[str], environment: Mapping[str, str], columns: int = 0) -> Shown:
    """Run a command on a terminal."""
    ours, theirs = make_terminal(columns)
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, env=environment, cwd=REPOSITORY) as process:
        os.close(theirs)
        text = read_all(ours)
    return Shown(process.returncode, text)
