"""How often commands that only look call the token."""

import tempfile
from dataclasses import dataclass

from handler.exit_status import DONE, WARNINGS
from tests.modules import SlowModule

from .clients import OURS
from .rotation import THREE_VALUES, FailedError, registered, run


@dataclass(frozen=True)
class Looked:
    """The calls of a command, and how many there may be."""

    calls: int
    limit: int


def looked(values: int) -> dict[str, Looked]:
    """Have a device that has rotated looked at; it has so many encrypted values. Raises FailedError."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, registered("token", **THREE_VALUES) as factory:
        run(factory, OURS)
        device, slow, found = factory.device, SlowModule(factory.device, folder), {}
        limits = {"status": 60, "slots": 30 + 4 * len(device.token_objects()), "check": 60 + 6 * values}
        for command, limit in limits.items():
            done = device.run(command, environment=slow.environment())
            if done.returncode not in (DONE, WARNINGS):
                raise FailedError(f"{command} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
            found[command] = Looked(slow.counted.total, limit)
        return found
