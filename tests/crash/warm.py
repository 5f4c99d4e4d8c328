"""The program, forked from a process that has loaded it already: all but the loading is as in a process of its own.

    python -m tests.crash.warm

reads an order a line (JSON: arguments, environment), forks, has the child be the program, and answers with a line
(JSON: exit status, all output). It never loads a PKCS#11 module and has no threads itself, so that a child begins where
a process of its own would be after its imports. A call with nothing to do takes 20 ms so, and 160 ms as a process: for
recoveries that are not cut off themselves.
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
from dataclasses import dataclass

from handler import cli
from tests.simulators.device import REPOSITORY

from . import hooks

LOADED = (
    "handler.rotation.rotator",
    "handler.rotation.phases.takeover",
    "handler.device.refused_pin",
    "hsm.keystore",
)
SECONDS = 60
"""After so many a child is ended by SIGALRM."""


@dataclass(frozen=True)
class Ended:
    """How a call ended; the status is negative where a signal ended it."""

    status: int
    output: str


class WarmProgram:
    """The process that forks, from the side of whoever gives it orders."""

    def __init__(self):
        self._process = subprocess.Popen(
            [*hooks.in_namespace(), sys.executable, "-m", "tests.crash.warm"],
            cwd=REPOSITORY,
            env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, device, *arguments, environment=None):
        """Call the program as fioconfig does, or with arguments; `environment` is added to its own."""
        order = {"arguments": arguments, "environment": device.environment() | (environment or {})}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return Ended(*json.loads(self._process.stdout.readline()))

    def end(self):
        """Close its input, and wait until it has ended."""
        self._process.communicate()


@functools.cache
def program():
    """Give this process's one; it ends with this process."""
    started = WarmProgram()
    atexit.register(started.end)
    return started


def serve():
    """Follow orders until there are no more; returns what to run, in a child, or None, in the parent, at the end."""
    while line := sys.stdin.readline():
        order = json.loads(line)
        with tempfile.TemporaryFile() as output:
            child = os.fork()
            if child == 0:
                _become(order, output.fileno())
                return order["arguments"]
            _, status = os.waitpid(child, 0)
            output.seek(0)
            said = output.read().decode("utf-8", "replace")
        sys.stdout.write(json.dumps([os.waitstatus_to_exitcode(status), said]) + "\n")
        sys.stdout.flush()
    return None


def _become(order, output):
    """Make this process look like the program at its start."""
    signal.alarm(SECONDS)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
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
        os._exit(status)  # taking down what all children share takes longer than most calls
