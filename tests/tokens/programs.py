"""Programs that run in the background of a test."""

import abc
import contextlib
import os
import subprocess
import threading
import time
from collections.abc import Callable, Mapping


class Programs(abc.ABC):
    """Programs in the background, with whatever they start; they can be stopped and started again."""

    def __init__(self) -> None:
        self._running: list[subprocess.Popen[bytes]] = []

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        self.stop()

    @contextlib.contextmanager
    def stopped(self):
        self.stop()
        try:
            yield
        finally:
            self.start()

    @abc.abstractmethod
    def start(self) -> None: ...

    def stop(self) -> None:
        while self._running:
            process = self._running.pop()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, 9)
            process.wait()

    def _run(self, command: list[str], ready: Callable[[], bool], environment: Mapping[str, str] | None = None) -> bool:
        """Start one and wait until it is ready; tell whether it came so far."""
        process = subprocess.Popen(
            command,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._running.append(process)
        end, pause = time.monotonic() + 10, threading.Event()
        while not ready():
            if process.poll() is not None or time.monotonic() > end:
                return False
            pause.wait(0.005)
        return True
