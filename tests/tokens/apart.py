"""A process that calls functions for a test: `python -m tests.tokens.apart`, pickles in and out.

Which TPM its module talks to stands in the environment and is read when the module starts, so such a token can only be
questioned by a process of its own. Before each call it restarts its modules: it holds nothing, and sees everything.
"""

import os
import pickle
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from tests.softhsm import restart_modules

T = TypeVar("T")


class Apart:
    """The process, with these variables besides its own. Started by the first call at the latest."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self):
        return self

    def __exit__(self, *_error: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def start(self) -> None:
        """Start it, and do not wait."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.tokens.apart"],
            cwd=Path(__file__).resolve().parents[2],
            env={**os.environ, **self._environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def call(self, function: Callable[..., T], *arguments: object) -> T:
        """Give what the function gives there. Raises RuntimeError for whatever it raises."""
        if self._process is None:
            self.start()
        pickle.dump((function, arguments), self._process.stdin)
        self._process.stdin.flush()
        worked, answer = pickle.load(self._process.stdout)
        if not worked:
            raise RuntimeError(answer)
        return answer


def _serve() -> None:
    while True:
        try:
            function, arguments = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        restart_modules()
        try:
            answer = (True, function(*arguments))
        except Exception:
            answer = (False, traceback.format_exc())
        pickle.dump(answer, sys.stdout.buffer)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    _serve()
