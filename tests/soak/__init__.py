"""Many rotations of one device in one process: nothing may grow, on the device, in its token, or in the process.

    python -m tests.soak [--keys file|tpm2|p11kit|softhsm] [--rotations N]

Each is called as fioconfig calls it and then once more, as the next call that tidies up; one in five meets a server
that fails for a while. Samples (tests.soak.sample) are taken after the warm-up, some fifty times in between, and at the
end. Ends with one line for each kind of keys; exit status 1 where something grew or broke.
"""

import contextlib
import os
import pickle
import tempfile
import time
from pathlib import Path

from handler.exit_status import DONE, SWITCHED
from handler.servers.http import Limits
from tests.crash import invariants
from tests.integration.in_process import call
from tests.invariants import broken_invariants
from tests.simulators.factory import running_factory
from tests.soak import sample
from tests.tokens import WITHOUT_ECDH, running_token

# Not pkcs11-spy: in one process it cannot stand beside the SoftHSM that it stands before.
KINDS = ("file", "tpm2", "p11kit", "softhsm")

SPOILT = [("POST", "/simplereenroll"), ("PATCH", "/device"), ("GET", "/config-device"), ("PATCH", "/config")]
EVERY = 5
WARM = EVERY * len(SPOILT)
"""Rotations after which everything is loaded and every fault was met once: the process has its size."""

LIMITS = Limits(retry_delays=(0.01, 0.01, 0.01))
"""A device's time limits: half an hour on a busy machine has moments in which shorter ones are too short."""


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
    """Rotate so often, after the warm-up; give what broke or grew, and the summary."""
    broken, taken, every = [], 0, max(1, rotations // 50)
    # The samples are kept in a file: in memory, they would be what grows.
    with tempfile.TemporaryFile() as kept, factory_with(keys) as factory:
        for number in range(WARM + rotations):
            broken += rotate(factory, keys, number)
            forget(factory)
            done = number + 1 - WARM
            if done == 0:
                sample.settle()
                started = time.monotonic()
            if done % (every if done >= 0 else EVERY) == 0 or done == rotations:
                each = sample.take(factory, done)
                if done >= 0:  # those before are warm-up too
                    pickle.dump(each, kept)
                    taken += 1
                    if taken % 5 == 1:
                        print(f"{keys}: {each}", flush=True)
                del each
        seconds = time.monotonic() - started
        kept.seek(0)
        samples = [pickle.load(kept) for _ in range(taken)]
        lost = sample.lost_by_starts(round(sample.trend([each.starts for each in samples])))
    grown = list(sample.grown(samples, lost))
    told = "; ".join(grown) if grown else "nothing grew"
    story = sample.story(samples, lost)
    return broken + grown, f"{keys}: {rotations} rotations in {seconds:.0f} s, {len(broken)} broken, {told}: {story}"


def rotate(factory, keys, number):
    """Rotate once; give what broke."""
    device, rotation_id = factory.device, f"certs-{number:05}"
    device.write_request(rotation_id)
    if number % EVERY == EVERY - 1:
        method, path = SPOILT[number // EVERY % len(SPOILT)]
        (factory.est if method == "POST" else factory.gateway).faults.add(method, path, times=2, status=503)
    outcome, after = call(device, limits=LIMITS), call(device, limits=LIMITS)
    if (outcome.status, after.status) != (SWITCHED, DONE):
        yield f"{rotation_id}: {outcome} {after}"
    ask = invariants.broken_invariants if keys in WITHOUT_ECDH else broken_invariants
    yield from (f"{rotation_id}: {each}" for each in ask(factory, rotation_id, completed=True))


def forget(factory):
    """Have the simulators forget the rotation: what they remember is theirs, and grows."""
    est, gateway, pki = factory.est, factory.gateway, factory.pki
    for memory in (est.requests, est.csrs, est.issued, gateway.requests, gateway.events, gateway.deliveries):
        memory.clear()
    gateway.updates.clear()
    gateway.denied.clear()
    for each in (est, gateway):
        each.refused_handshakes.clear()
        each.faults.clear()
    del pki.issued[:-1]
