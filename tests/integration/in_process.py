"""Calls of the program inside the test's process, with time limits that a test can wait for."""

import logging
from dataclasses import dataclass, field
from pathlib import Path

from handler.device.device import Device
from handler.device.lock import device_lock
from handler.device.request import Overrides, read_request
from handler.device.services import Services
from handler.errors import RenewalError, describe, is_final
from handler.exit_status import DONE, PENDING, REFUSED, SWITCHED
from handler.rotation.found import Wish
from handler.rotation.rotator import Rotator
from handler.servers.http import Limits
from hsm.errors import TokenError
from tests.invariants import broken_invariants

LIMITS = Limits(total=8.0, connect=1.0, read=0.4, retry_delays=(0.01, 0.01, 0.01))


class Silent:
    """Progress that is not shown."""

    def step_started(self, number, name):
        pass

    def step_done(self):
        pass

    def step_failed(self, reason):
        pass

    def completed(self, rotation_id, names, certificate):
        pass


@dataclass
class Outcome:
    """How a call ended: its exit status and what it said."""

    status: int
    said: str = ""
    worked: bool = field(default=True)


def call(device, command=None, limits=LIMITS, services=None):
    """Call the handler (None), "rotate", "resume", "unattended", "offline", "abort" or "withdraw" of a device."""
    environment = device.environment()
    paths = [Path(each) for each in environment["SOTA_DIR"].split(",")]
    configured = Device(paths, device.storage)
    by_fioconfig = command in (None, "withdraw")
    with device_lock(device.storage, 5.0):
        rotator = Rotator(
            configured,
            Silent(),
            called_by_fioconfig=by_fioconfig,
            limits=limits,
            services=services or Services(Path("/nowhere")),
        )
        try:
            if command in (None, "rotate"):
                request = read_request(
                    device.request_file, Overrides(), token=device.token is not None, default_rotation_id=None
                )
                worked = rotator.run(Wish.ROTATE, request)
            else:
                worked = rotator.run(Wish["WITHDRAWN" if command == "withdraw" else command.upper()])
            outcome = Outcome(0, "", worked)
        except (RenewalError, TokenError, OSError) as error:
            logging.getLogger(__name__).info("ended by", exc_info=error)
            outcome = Outcome(REFUSED if is_final(error) else PENDING, describe(error))
        finally:
            rotator.close()
        if by_fioconfig and rotator.switched:
            outcome.status = SWITCHED
        return outcome


def finish(factory, rotation_id):
    """Let the program finish what is pending, as a boot does; tell what is broken then."""
    statuses = [call(factory.device).status, call(factory.device, "resume").status]
    while statuses[-1] != DONE and len(statuses) < 4:
        statuses.append(call(factory.device, "resume").status)
    broken = broken_invariants(factory, rotation_id, completed=True)
    return broken if statuses[-1] == DONE else [f"it ended with {statuses}", *broken]
