"""The memory of the daemon while it waits."""

import contextlib
import re
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from handler.exit_status import PENDING
from tests.integration.daemons import SLOW, Systemd, waits
from tests.simulators.factory import Factory

from .rotation import FailedError, registered

SECONDS = 20.0
RETRY_AFTER = "Retry-After"
TOKEN_AWAY = "token away"


@dataclass(frozen=True)
class Waiting:
    """Resident memory, and the part of it that is this process's share, in MB."""

    resident: float
    share: float


def waiting(runs: int) -> dict[str, Waiting]:
    """Have the daemon wait so often, for what a server asked and for its token. Gives medians. Raises FailedError."""
    found = {RETRY_AFTER: [_for_a_server() for _ in range(runs)], TOKEN_AWAY: [_for_a_token() for _ in range(runs)]}
    return {
        name: Waiting(median(each.resident for each in every), median(each.share for each in every))
        for name, every in found.items()
    }


def _for_a_server() -> Waiting:
    with registered("file") as factory:
        factory.est.faults.add("POST", "/simplereenroll", times=1, status=503, headers={"Retry-After": "3000"})
        return _left_pending(factory)


def _for_a_token() -> Waiting:
    with registered("token") as factory, factory.device.token.away():
        return _left_pending(factory)


def _left_pending(factory: Factory) -> Waiting:
    """Leave a rotation to the daemon, and look at it as soon as it waits."""
    done = factory.device.run()
    if done.returncode != PENDING:
        raise FailedError(f"nothing is left to the daemon: {done.returncode}\n{done.stderr}")
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, contextlib.closing(Systemd(Path(folder))) as systemd:
        notify = {"NOTIFY_SOCKET": systemd.address}
        with factory.device.start("daemon", *SLOW, environment=notify) as daemon:
            try:
                end, pause = time.monotonic() + SECONDS, threading.Event()
                while not waits(systemd):
                    if time.monotonic() > end or daemon.poll() is not None:
                        raise FailedError(f"the daemon does not wait: it said {systemd.said}")
                    pause.wait(0.01)
                process = Path("/proc", str(daemon.pid))
                return Waiting(_megabytes(process / "status", "VmRSS"), _megabytes(process / "smaps_rollup", "Pss"))
            finally:
                daemon.terminate()


def _megabytes(path: Path, name: str) -> float:
    return int(re.search(rf"^{name}:\s+(\d+) kB", path.read_text(), re.MULTILINE)[1]) / 1024
