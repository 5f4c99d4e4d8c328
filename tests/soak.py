"""Many rotations of one device in one process: nothing may grow, on the device, in its token, or in the process.

    python -m tests.soak [--keys file|softhsm|tpm2|p11kit] [--rotations N]

Each is called as fioconfig calls it and then once more, as the next call that tidies up. One in ten meets a server that
fails for a while. Ends with one line; exit status 1 where something grew or broke.
"""

import argparse
import contextlib
import gc
import logging
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from handler.exit_status import DONE, SWITCHED
from tests.crash import invariants
from tests.integration.in_process import call
from tests.invariants import broken_invariants
from tests.simulators.factory import running_factory
from tests.tokens import WITHOUT_ECDH, running_token

# Not pkcs11-spy: in one process it cannot stand beside the SoftHSM that it stands before.
KINDS = ("softhsm", "tpm2", "p11kit")

WARM = 20
"""Rotations after which everything is loaded, and the process has its size."""
GROWTH = 16 * 1024
"""Bytes that one rotation may leave in a process, which on a device ends with it: SoftHSM keeps some of every key."""
SPOILT = [("POST", "/simplereenroll"), ("PATCH", "/device"), ("GET", "/config-device"), ("PATCH", "/config")]


def resident():
    """Give the process's resident memory in bytes."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE")


@contextlib.contextmanager
def factory_with(keys):
    """Run a factory with a device of that kind of keys; where a token cannot derive, nothing is encrypted."""
    with tempfile.TemporaryDirectory(prefix="soak-") as folder, contextlib.ExitStack() as stack:
        place = Path(folder, "device")
        if keys == "file":
            yield stack.enter_context(running_factory(place, "file"))
            return
        token = stack.enter_context(running_token(keys))
        os.environ |= token.environment
        plain = {"config": {}, "config_device": None} if keys in WITHOUT_ECDH else {}
        yield stack.enter_context(running_factory(place, "token", token=token, **plain))


def soak(keys, rotations):
    """Rotate so often; give what broke, and a summary."""
    broken = []
    with factory_with(keys) as factory:
        device = factory.device
        started, before = time.monotonic(), 0
        for number in range(rotations):
            rotation_id = f"certs-{number}"
            device.write_request(rotation_id)
            if number % 10 == 9:
                method, path = SPOILT[number // 10 % len(SPOILT)]
                (factory.est if method == "POST" else factory.gateway).faults.add(method, path, times=2, status=503)
            outcome = call(device)
            after = call(device)
            if (outcome.status, after.status) != (SWITCHED, DONE):
                broken.append(f"{rotation_id}: {outcome} {after}")
            if number == WARM:
                before = resident()
            if number % 50 == 0:
                print(f"{keys}: {number} rotations, {resident() / 2**20:.1f} MB", flush=True)
            # What the simulators remember of every rotation is theirs.
            ask = invariants.broken_invariants if keys in WITHOUT_ECDH else broken_invariants
            broken += [f"{rotation_id}: {each}" for each in ask(factory, rotation_id, completed=True)]
            est, gateway = factory.est, factory.gateway
            for memory in (est.requests, est.csrs, est.issued, gateway.requests, gateway.events, gateway.deliveries):
                memory.clear()
            gateway.updates.clear()
        grown = resident() - before if rotations > WARM else 0
        if grown > GROWTH * rotations:
            broken.append(f"the process grew by {grown / 2**20:.1f} MB in {rotations - WARM} rotations")
        files = Counter(path.suffix for path in device.storage.rglob("*") if path.is_file())
        objects = Counter(each.object_class for each in device.token_objects())
        seconds = time.monotonic() - started
    return broken, (
        f"{keys}: {rotations} rotations in {seconds:.0f} s, {len(broken)} broken; the process grew by "
        f"{grown / 2**20:.1f} MB; files {dict(files)}, objects {dict(objects)}"
    )


def main(arguments=None):
    """Soak as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keys", choices=("file", *KINDS), action="append")
    parser.add_argument("--rotations", type=int, default=500)
    options = parser.parse_args(arguments)
    logging.disable(logging.WARNING)
    status = 0
    for keys in options.keys or ["file", *KINDS]:
        broken, summary = soak(keys, options.rotations)
        for each in broken[:20]:
            print(f"BROKEN {each}")
        print(summary, flush=True)
        status |= bool(broken)
    return status


if __name__ == "__main__":
    sys.exit(main())
