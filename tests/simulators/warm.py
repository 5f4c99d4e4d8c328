"""The program, forked from a process that has loaded it already: apart from the loading, it runs as in its own process.

    python -m tests.simulators.warm

reads an order a line (JSON: arguments, environment), forks, has the child be the program, and answers with a line
(JSON: exit status, standard output, standard error). It never loads a PKCS#11 module and has no threads itself, so that
a child begins where a process of its own would be after its imports. A call with nothing to do takes 20 ms so, and
160 ms as a process: for calls of which only the status, the output and what they leave is looked at. The interpreter is
not taken down in the end, so nothing that a module does there is to be seen (C_Finalize).
"""

import atexit
import functools
import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from handler import cli

REPOSITORY = Path(__file__).resolve().parents[2]
LOADED = (
    "handler.commands.abort",
    "handler.commands.check",
    "handler.commands.log",
    "handler.commands.resume",
    "handler.commands.rotate",
    "handler.commands.slots",
    "handler.commands.status",
    "handler.rotation.rotator",
    "handler.rotation.phases.takeover",
    "handler.device.refused_pin",
    "hsm.keystore",
)
SECONDS = 60
"""After so many a child is ended by SIGALRM."""
_AT_THE_START = ("PYTHON", "LD_", "LC_", "LANG", "JOURNAL_STREAM")
"""What the interpreter and the loader look at before the program begins: names of variables begin so."""


class WarmProgram:
    """The process that forks, from the side that gives it orders."""

    def __init__(self, within: Sequence[str] = ()) -> None:
        # In a C locale, as a service has it: the interpreter sets up its streams once, for all children.
        kept = {name: value for name, value in os.environ.items() if not name.startswith(_AT_THE_START)}
        self._process = subprocess.Popen(
            [*within, sys.executable, "-m", "tests.simulators.warm"],
            cwd=REPOSITORY,
            env=kept | {"PYTHONDONTWRITEBYTECODE": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._lock = threading.Lock()

    def run(self, arguments: Sequence[str], environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        """Call the program with exactly that environment."""
        with self._lock:
            self._process.stdin.write(json.dumps({"arguments": arguments, "environment": environment}) + "\n")
            self._process.stdin.flush()
            status, output, errors = json.loads(self._process.stdout.readline())
        return subprocess.CompletedProcess(list(arguments), status, output, errors)

    def end(self) -> None:
        """Close its input, and wait until it has ended."""
        self._process.communicate()


def takes(added: Mapping[str, str]) -> bool:
    """Tell whether what is added to a device's environment counts after the start only."""
    return not any(name.startswith(_AT_THE_START) for name in added)


@functools.cache
def program(within: tuple[str, ...] = ()) -> WarmProgram:
    """Give this process's one, run by the command `within`; it ends with this process."""
    started = WarmProgram(within)
    atexit.register(started.end)
    return started


def serve() -> list[str] | None:
    """Follow orders until there are no more; returns what to run, in a child, or None, in the parent, at the end."""
    while line := sys.stdin.readline():
        order = json.loads(line)
        with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
            child = os.fork()
            if child == 0:
                _become(order, output.fileno(), errors.fileno())
                return order["arguments"]
            _, status = os.waitpid(child, 0)
            said = []
            for stream in (output, errors):
                stream.seek(0)
                said.append(stream.read().decode("utf-8", "replace"))
        sys.stdout.write(json.dumps([os.waitstatus_to_exitcode(status), *said]) + "\n")
        sys.stdout.flush()
    return None


def _become(order: dict, output: int, errors: int) -> None:
    """Make this process look like the program at its start."""
    signal.alarm(SECONDS)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(output, 1)
    os.dup2(errors, 2)
    os.environ.clear()
    os.environ.update(order["environment"])
    sys.argv = sys.orig_argv = [sys.executable, *order["arguments"]]


if __name__ == "__main__":
    for each in LOADED:
        importlib.import_module(each)
    gc.freeze()  # nothing of it is copied by a child that collects its garbage
    todo = serve()
    if todo is not None:
        status = cli.main(todo)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)  # taking down what all children share takes longer than most calls
