"""Cuts a rotation off everywhere, recovers, and asks whether the device is whole.

    python -m tests.crash.explorer [--keys file|token] [--gateway takes|refuses] [--every N] [--cuts KIND,...]

A place is a file-changing system call of the program (killed as it enters the call), or an HTTP exchange (killed when
the request arrives, or when the server has done the work but not answered). What may be left there:

* `kill`: the process is gone, all that it did to files is there. fioconfig, which called it, goes on: it stores the
  configuration that it fetched before the rotation, encrypted to the old key.
* `lost`, `torn`: a power loss, see powerloss.py. The device boots: `resume --offline`, then the handler is called.
* `twice`: a kill, and another one during the recovery.
* `ENOSPC`, `EIO`: no cut, but the call fails so, once.
* `module` (only where asked for): no cut, but that call of the PKCS#11 module fails.

Ends with one line: places tried, recovered, invariants broken; exit status 1 where any is.
"""

import argparse
import contextlib
import itertools
import json
import multiprocessing
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from concurrent import futures
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.crash.invariants import broken_invariants
from tests.simulators.factory import running_factory

from . import powerloss, recording
from .faulty_module import RETURN_VALUES, FaultyModule

ROTATION = "certs-crash"
ERRORS = ("ENOSPC", "EIO")
CUTS = ("kill", "lost", "torn", "twice", "before", "after", *ERRORS, "module")
DONE, PENDING, REFUSED, SWITCHED = 0, 75, 78, 123


@dataclass(frozen=True)
class Place:
    """Where a rotation is cut off, and what is left then."""

    keys: str
    refused: bool
    """Whether the gateway refuses the new certificate, so that all has to go back."""
    cut: str
    call: recording.Call | None = None
    exchange: int = 0
    """For `before` and `after`: the how many-th request to both servers, from 1; for `module` the how many-th call."""

    def __str__(self):
        what = "call" if self.cut == "module" else "request"
        where = f"{what} {self.exchange}" if self.call is None else str(self.call)
        return f"{self.keys}{', rolled back' if self.refused else ''}, {self.cut} at {where}"


@dataclass(frozen=True)
class Finding:
    """What a place led to: invariants that are broken; whether the cut happened at all."""

    place: str
    broken: tuple[str, ...]
    happened: bool = True


class UncutError(Exception):
    """A rotation did not even end as it should without any cut."""


@contextlib.contextmanager
def factory_for(keys, refused):
    """Run a fresh factory whose device has a request waiting."""
    with (
        tempfile.TemporaryDirectory(prefix="crash-") as folder,
        running_factory(
            Path(folder, "device"), keys, gateway={"refuse_new_certificate": 403 if refused else None}
        ) as factory,
    ):
        factory.device.write_request(ROTATION)
        try:
            yield factory
        finally:
            if factory.device.token:
                from tests import softhsm  # noqa: PLC0415 - with a token only

                softhsm.remove_token(factory.device.token)


def watched_folders(factory):
    """Give the folders whose changes are places: the storage, and the token's objects."""
    token = factory.device.token
    return [factory.device.storage, *([token.directory] if token else [])]


def record(keys, refused):
    """Give the file-changing calls of the main thread in one whole rotation, and the number of requests it made."""
    with factory_for(keys, refused) as factory, tempfile.TemporaryDirectory() as folder:
        folders = watched_folders(factory)
        existing = {str(path) for each in folders for path in each.rglob("*")}
        status, calls = run_recorded(factory, Path(folder, "calls"))
        if status != (REFUSED if refused else SWITCHED):
            raise UncutError(f"without any cut it ended with status {status}")
        requests = len(factory.est.requests) + len(factory.gateway.requests)
        changing = []
        for call in calls:
            if call.changes(folders, existing):
                changing += [call] if call.main else []
                existing.update(call.paths)
        return changing, requests


def run_recorded(factory, output, inject=None, *arguments, fault="signal=KILL"):
    """Run the program under strace; give its status (None: killed) and what it did."""
    device = factory.device
    done = subprocess.run(
        [*recording.strace(output, inject, fault), *device.command(*arguments)],
        env=device.environment() | {"PYTHONDONTWRITEBYTECODE": "1"},
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        check=False,
        timeout=120,
    )
    calls = recording.read(output)
    recording.remove(output)
    return (None if done.returncode in (137, -9) else done.returncode), calls


def try_place(place):
    """Cut a rotation off there, recover, and give what is broken."""
    try:
        return _tried(place)
    except Exception as error:
        return Finding(str(place), (f"what was left could not be questioned: {error!r}",))


def _tried(place):
    with factory_for(place.keys, place.refused) as factory, tempfile.TemporaryDirectory() as folder:
        before = powerloss.snapshot(factory.device.storage)
        if place.cut in ERRORS:
            status, _ = run_recorded(factory, Path(folder, "calls"), place.call, fault=f"error={place.cut}")
            return Finding(str(place), tuple(failed_softly(factory, status, refused=place.refused)))
        if place.cut == "module":
            module = FaultyModule(factory.device, folder)
            value = list(RETURN_VALUES.values())[place.exchange % len(RETURN_VALUES)]
            done = factory.device.run(environment=module.environment(place.exchange, value))
            broken = ["it ended with a traceback"] if "Traceback" in done.stderr else []
            with plain_module(factory.device):
                broken += failed_softly(factory, done.returncode, refused=place.refused)
            return Finding(str(place), tuple(broken))
        if place.call is None:
            happened = killed_at_exchange(factory, place)
        else:
            status, calls = run_recorded(factory, Path(folder, "calls"), place.call)
            happened = status is None
            if place.cut in ("lost", "torn"):
                disk = powerloss.Disk(factory.device.storage, before)
                disk.play(calls)
                disk.put(getattr(disk, place.cut)())
        if place.cut in ("lost", "torn"):
            broken = boot(factory)
        else:
            fioconfig_goes_on(factory)
            if place.cut == "twice":
                second = random.Random(str(place)).choice(SECOND_CUTS)
                run_recorded(factory, Path(folder, "again"), second, "resume")
            broken = []
        statuses = recover(factory)
        if statuses[-1] != DONE:
            broken.append(f"recovery ended with statuses {statuses}")
        broken += broken_invariants(factory, ROTATION, completed=not place.refused)
        return Finding(str(place), tuple(broken), happened)


def module_calls(keys, refused):
    """Count the calls of the PKCS#11 module in one whole rotation."""
    if keys != "token":
        return 0
    with factory_for(keys, refused) as factory, tempfile.TemporaryDirectory() as folder:
        module = FaultyModule(factory.device, folder)
        factory.device.run(environment=module.environment())
        return module.calls


@contextlib.contextmanager
def plain_module(device):
    """Let the device use its real module again."""
    configuration = device.folder / "usr/lib/sota/conf.d/40-hsm.toml"
    text = configuration.read_text()
    configuration.write_text(re.sub(r'module = ".*"', f'module = "{device.token.module}"', text))
    yield
    configuration.write_text(text)


def failed_softly(factory, status, *, refused):
    """Ask after a call that met an error: how it ended, and whether the next calls finish what it left."""
    broken = []
    if status not in (DONE, PENDING, REFUSED, SWITCHED):
        broken.append(f"it ended with status {status}")
    if not factory.device.current_identity().whole:
        broken.append("the identity in use was not whole after it")
    statuses = recover(factory)
    if statuses[-1] != DONE:
        broken.append(f"recovery ended with statuses {statuses}")
    return [*broken, *broken_invariants(factory, ROTATION, completed=not refused)]


SECOND_CUTS = [
    recording.Call(0.0, True, name, ordinal, (), b"", "", False)
    for name, ordinals in (("rename", range(1, 9)), ("fsync", range(1, 17)), ("unlink", range(1, 6)), ("mkdir", (1,)))
    for ordinal in ordinals
]


def killed_at_exchange(factory, place):
    """Run the handler and kill it at that request; tell whether it came so far."""
    device = factory.device
    counter = itertools.count(1)
    happened = []
    with device.start() as process:
        for server in (factory.est_server, factory.gateway_server):

            def respond(request, answer=server.respond):
                mine = next(counter) == place.exchange
                if mine and place.cut == "before":
                    process.kill()
                    happened.append(True)
                    process.wait()
                result = answer(request)
                if mine and place.cut == "after":
                    process.kill()
                    happened.append(True)
                    process.wait()
                return result

            server.respond = respond
        process.communicate(timeout=120)
        for server in (factory.est_server, factory.gateway_server):
            del server.respond
    return bool(happened)


def fioconfig_goes_on(factory):
    """Do what fioconfig does when its handler was killed: store what it had fetched, for the old key."""
    path = factory.device.config_encrypted
    path.write_text(json.dumps(factory.device.config))
    now = int(time.time())
    os.utime(path, (now, now))


def boot(factory):
    """Boot after a power loss: without a network the files have to be readable already."""
    broken = []
    done = factory.device.run("resume", "--offline")
    if done.returncode != DONE:
        broken.append(f"resume --offline ended with {done.returncode}: {done.stderr.strip()}")
    try:
        factory.device.plaintexts()
    except Exception as error:
        broken.append(f"after booting offline the files cannot be extracted: {error!r}")
    return broken


def recover(factory):
    """Call the handler again, as a boot does, then let `resume` finish what is left; give the statuses."""
    statuses = [factory.device.run().returncode]
    for _ in range(3):
        statuses.append(factory.device.run("resume").returncode)
        if statuses[-1] == DONE:
            break
    return statuses


def places(keys, refused, cuts, every):
    """List the places of one key mode, each `every`-th."""
    calls, requests = record(keys, refused)
    numbers = range(1, requests + 1)
    exchanges = [Place(keys, refused, cut, exchange=number) for number in numbers for cut in ("before", "after")]
    at_calls = [Place(keys, refused, cut, call) for call in calls for cut in ("lost", "torn", *ERRORS)]
    # A kill leaves what the call before left: where that was nothing to be seen, it leads to no new state.
    seen = [call for before, call in itertools.pairwise([None, *calls]) if before is None or before.visible]
    at_calls += [Place(keys, refused, cut, call) for call in seen for cut in ("kill", "twice")]
    # The token's own files are not replayed: a power loss there is the module's business.
    at_calls = [each for each in at_calls if each.cut not in ("lost", "torn") or _in_storage(each.call)]
    calls_of_module = range(1, module_calls(keys, refused) + 1 if "module" in cuts else 0)
    in_module = [Place(keys, refused, "module", exchange=number) for number in calls_of_module]
    # SoftHSM rewrites this file in its place at every start: cut off there its token is gone, whoever uses it.
    at_calls = [each for each in at_calls if "write token.object" not in str(each.call)]
    found = [each for each in [*at_calls, *exchanges, *in_module] if each.cut in cuts]
    return found[:: max(1, every)]


def _in_storage(call):
    return any("/var/sota" in path for path in call.paths)


def explore(todo, seconds=None):
    """Try places, as many at a time as there are processors, for at most so many seconds; yield the findings."""
    end = None if seconds is None else time.monotonic() + seconds
    with ProcessPoolExecutor(os.cpu_count(), mp_context=multiprocessing.get_context("spawn")) as pool:
        waiting = iter(todo)
        running = {pool.submit(try_place, place) for place in itertools.islice(waiting, 2 * (os.cpu_count() or 1))}
        while running:
            done, running = futures.wait(running, return_when=futures.FIRST_COMPLETED)
            for future in done:
                yield future.result()
            if end is None or time.monotonic() < end:
                running |= {pool.submit(try_place, place) for place in itertools.islice(waiting, len(done))}


def main(arguments=None):
    """Explore as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keys", choices=("file", "token"))
    parser.add_argument("--gateway", choices=("takes", "refuses"), help="the new certificate; both if not given")
    parser.add_argument("--every", type=int, default=1, help="try each N-th place only")
    parser.add_argument("--seconds", type=float, help="stop after so many")
    parser.add_argument("--cuts", default=",".join(CUTS[:-1]))
    options = parser.parse_args(arguments)
    tried = broken = missed = 0
    modes = [options.keys] if options.keys else ["file", "token"]
    answers = [options.gateway == "refuses"] if options.gateway else [False, True]
    for keys, refused in itertools.product(modes, answers):
        name = f"{keys}{', rolled back' if refused else ''}"
        try:
            todo = places(keys, refused, options.cuts.split(","), options.every)
        except UncutError as error:
            tried, broken = tried + 1, broken + 1
            print(f"BROKEN {name}: {error}", flush=True)
            continue
        print(f"{name}: {len(todo)} places", flush=True)
        for finding in explore(todo, options.seconds):
            tried += 1
            missed += not finding.happened
            if finding.broken:
                broken += 1
                print(f"BROKEN {finding.place}: {'; '.join(finding.broken)}", flush=True)
    print(f"{tried} places tried ({missed} not reached), {tried - broken} recovered, {broken} with invariants broken")
    return 1 if broken or not tried else 0


if __name__ == "__main__":
    sys.exit(main())
