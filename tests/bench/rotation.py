"""One rotation of a device that was registered just now, and what it took."""

import contextlib
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Literal, TypeVar

from tests.modules import SlowModule, Speed, Watched
from tests.simulators.device import REPOSITORY
from tests.simulators.device_config import FACTORY_FILES, PlainFile, PlainFiles
from tests.simulators.factory import Factory, running_factory
from tests.softhsm import remove_token

from .clients import Client

ID = "certs-bench"
LIMIT = 120.0
_LAUNCH = (sys.executable, "-I", "-S", str(Path(__file__).with_name("launch.py")))

Keys = Literal["file", "token"]
T = TypeVar("T")


@dataclass(frozen=True)
class Case:
    """Which program rotates, with which keys, and how far away the servers are (seconds, each way)."""

    client: Client
    keys: Keys
    delay: float


@dataclass(frozen=True)
class Figures:
    """What a rotation took: times in seconds, memory in MB."""

    connections: int
    requests: int
    wall: float
    cpu: float
    memory: float


@dataclass(frozen=True)
class SlowFigures:
    """What a rotation asked of a slow token, and how long it took (seconds)."""

    calls: int
    operations: int
    wall: float


WITH_VALUES = {name: file for name, file in FACTORY_FILES.items() if file.content is not None}
"""The usual files, but that without a value: the stock client cannot rotate a device that has one."""
THREE_VALUES: dict[str, PlainFiles] = {
    "config": {"factory": PlainFile(b"of the factory")},
    "config_device": {"device": PlainFile(b"of the device, in config.encrypted and in /config-device")},
}
"""Three ciphertexts in all: what the stock client's figures are known for."""


class FailedError(Exception):
    """A program did not rotate, so there is nothing to compare."""


@contextlib.contextmanager
def registered(keys: Keys, delay: float = 0.0, **device: PlainFiles) -> Iterator[Factory]:
    """Run a factory whose device has to rotate; what it leaves is removed."""
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
        running_factory(Path(folder, "device"), keys, delay=delay, **({"config": WITH_VALUES} | device)) as factory,
    ):
        factory.device.write_request(ID)
        try:
            yield factory
        finally:
            if factory.device.token:
                remove_token(factory.device.token)


def rotate(case: Case) -> Figures:
    """Rotate once. Raises FailedError."""
    with registered(case.keys, case.delay) as factory:
        _, wall, cpu, memory = run(factory, case.client)
        gateway, est = factory.gateway, factory.est
        return Figures(
            connections=gateway.connections + est.connections,
            requests=len(gateway.requests) + len(est.requests),
            wall=wall,
            cpu=cpu,
            memory=memory,
        )


def said(client: Client, keys: Keys) -> str:
    """Rotate once, and give what was written. Raises FailedError."""
    with registered(keys) as factory:
        return run(factory, client)[0]


def token_calls(client: Client) -> Counter[str]:
    """Rotate once behind pkcs11-spy, and count the calls of the token by name. Raises FailedError."""
    with registered("token") as factory:
        watched = Watched(factory.device)
        run(factory, client, watched.environment())
        return Counter(watched.every_call)


def rotate_slowly(client: Client, speed: Speed) -> SlowFigures:
    """Rotate once with a token of that speed. Raises FailedError."""
    with registered("token", **THREE_VALUES) as factory:
        slow = SlowModule(factory.device, factory.device.folder, speed)
        _, wall, _, _ = run(factory, client, slow.environment())
        return SlowFigures(slow.counted.total, slow.counted.operations, wall)


def medians(figures: list[T]) -> T:
    """Give the median of each figure."""
    every = [asdict(each) for each in figures]
    return type(figures[0])(**{name: median(each[name] for each in every) for name in every[0]})


def run(
    factory: Factory, client: Client, environment: dict[str, str] | None = None, within: Sequence[str] = ()
) -> tuple[str, float, float, float]:
    """Call the program as fioconfig does, `within` another: output, wall and CPU time (seconds), peak memory (MB)."""
    device = factory.device
    result = device.folder / "result"
    done = subprocess.run(
        [*_LAUNCH, str(result), *within, *client.command(device, ID)],
        cwd=REPOSITORY,
        env={**device.environment(), "SECRETS_DIR": str(device.folder / "run/secrets"), **(environment or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        timeout=LIMIT,
        check=False,
    )
    if done.returncode != client.status:
        raise FailedError(f"{client.name} ended with {done.returncode}:\n{done.stdout}")
    # The stock client shows the gateway its new certificate with the next check-in only.
    if device.current_identity().public_key not in (factory.gateway.current, factory.gateway.next_pubkey):
        raise FailedError(f"{client.name} left a device that the gateway does not know:\n{done.stdout}")
    wall, cpu, kilobytes = map(float, result.read_text().split())
    return done.stdout, wall, cpu, kilobytes / 1024
