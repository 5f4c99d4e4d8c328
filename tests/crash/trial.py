"""Tries one site: has it happen to the real program as a process, recovers, and asks whether the device is whole.

What a kill leaves (files and servers) is kept, and put back for each point of that site:

* `kill`: fioconfig, which called, goes on and stores the configuration that it fetched before the rotation, encrypted
  to the old key; or that, and then a boot without a network; or fioconfig is killed with it, and such a boot comes.
* `lost`, `torn`: a power loss, see powerloss.py, and a boot without a network.
* `held`: a rotation by hand is killed, which has stopped fioconfig: see by_hand.py.
* `twice`: as `kill`, then another kill in the handler, `resume` or `resume --offline`, at a change that this one makes
  there: it runs as a process, is recorded, and what a kill there leaves is made by replay.

A boot without a network is `resume --offline`; after it every file has to be readable. A hook runs in all of
it, and in the end has to have been told which identity is in use (hooks.py). Recoveries that are not cut off
run in warm processes (tests.simulators.warm).
"""

import contextlib
import json
import os
import random
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from handler.journal.decoding import MalformedError
from tests import journal as journals
from tests.invariants import broken_invariants
from tests.modules import RETURN_VALUES, FaultyModule
from tests.simulators.device import REPOSITORY
from tests.simulators.factory import running_factory

from . import by_hand, hooks, powerloss, recording
from .places import Recorded, changes
from .servers import Servers

ROTATION = "certs-crash"
DONE, PENDING, REFUSED, SWITCHED = 0, 75, 78, 123
RECOVERIES = ((), ("resume",), ("resume", "--offline"))
ATTEMPTS = 4
"""Runs in which a site may fail to come up: events are delivered beside the rotation, in batches that vary."""


@dataclass(frozen=True)
class Result:
    """What a point led to: invariants that are broken; whether it happened at all."""

    point: str
    broken: tuple[str, ...] = ()
    happened: bool = True


class UncutError(Exception):
    """A rotation did not even end as it should without any cut."""


class Trial:
    """A fresh factory whose device has a request waiting."""

    def __init__(self, factory, gateway, folder):
        self.factory = factory
        self.device = factory.device
        self.device.within = hooks.in_namespace()
        self.gateway = gateway
        self.servers = Servers(factory, changes=gateway == "changes", replicas=gateway == "replicas")
        self.storage = str(self.device.storage)
        self.others = [str(self.device.token.directory)] if self.device.token else []
        self.tops = [self.storage, *self.others]
        self._folder = Path(folder)
        self._output = self._folder / "calls"

    # Moments

    def moment(self):
        """Keep files, servers and what hooks were told as they are."""
        self.servers.quiet()
        return powerloss.snapshot(self.tops), self.servers.known(), hooks.told(self.device)

    def put_back(self, moment):
        """Have all that as it was."""
        files, known, told = moment
        hooks.put_back(self.device, told)
        self.servers.quiet()
        self.put(files)
        self.servers.put_back(known)

    def put(self, files):
        """Have the files as in that state."""
        powerloss.put(self.tops, files)
        if self.device.token:
            from hsm.token import Token  # noqa: PLC0415 - with a token only

            # This process's module keeps what it has read of the token.
            Token(self.device.token.module, self.device.token.label, self.device.token.pin).reinitialize()

    def disk(self, before):
        """Give the disk to play calls to."""
        return powerloss.Disk(self.storage, self.others, before)

    def journalled(self):
        """Give the ids of the events that wait in the journal: each has to be delivered under just that id.

        The success of a rotation that the gateway refuses afterwards is withdrawn: it is left out unless it takes all.
        """
        try:
            content = journals.read(self.device.storage)
        except MalformedError:  # a cut has torn its first record: nothing that it announces has happened
            content = None
        events = [] if content is None else content["events"]
        withdrawn = {
            each["id"]
            for each in events
            if self.gateway != "takes"
            and each["eventType"]["id"] == "CertRotationCompleted"
            and each["event"]["success"]
        }
        return {each["id"] for each in events} - withdrawn

    # The program

    def recorded(self, *arguments, inject=None, fault="signal=KILL", within=()):
        """Run the program as a process under strace; give status (None: killed), calls, what it said as an error.

        `within`: a command that runs what follows it.
        """
        self.servers.begin()
        program = self.device.command(*arguments)[len(self.device.within) :]
        done = subprocess.run(
            [*self.device.within, *within, *recording.strace(self._output, inject, fault), *program],
            env=self.device.environment() | {"PYTHONDONTWRITEBYTECODE": "1"},
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        calls = recording.read(self._output)
        recording.remove(self._output)
        self.servers.quiet()
        return (None if done.returncode in (137, -9) else done.returncode), calls, done.stderr

    def killed_at(self, exchange, moment):
        """Run the handler and kill it at that request; tell whether it came so far."""
        self.servers.begin()
        happened = []
        with self.device.start() as process:

            def meet(met, when):
                if (met, when) == (exchange, moment) and not happened:
                    process.kill()
                    process.wait()
                    happened.append(True)

            self.servers.meet = meet
            process.communicate(timeout=120)
        self.servers.meet = lambda *_: None
        self.servers.quiet()
        return bool(happened)

    # Afterwards

    def fioconfig_goes_on(self):
        """Do what fioconfig does when its handler was killed: store what it had fetched, for the old key."""
        path = self.device.config_encrypted
        path.write_text(json.dumps(self.device.config))
        now = int(time.time())
        os.utime(path, (now, now))

    def boot(self):
        """Boot: without a network the files have to be readable already."""
        broken = []
        done = self.device.run("resume", "--offline")
        if done.returncode != DONE:
            broken.append(f"resume --offline ended with {done.returncode}: {done.stderr.strip()}")
        try:
            self.device.plaintexts()
        except Exception as error:
            broken.append(f"after booting offline the files cannot be extracted: {error!r}")
        return broken

    def recover(self, owed=frozenset()):
        """Call the handler again, as a boot does, then let `resume` finish what is left; tell what is broken then.

        `owed` are the ids of events that have to be delivered. Where the gateway changes its mind, all of it twice.
        """
        statuses, broken = [], []
        for round_ in range({"changes": 2, "replicas": 3}.get(self.gateway, 1)):
            if round_:
                self._a_minute_passes()
            for arguments in ((), *[("resume",)] * 3):
                done = self.device.run(*arguments)
                statuses.append(done.returncode)
                if "Traceback" in done.stderr:
                    broken.append(f"a traceback: {done.stderr[-500:]}")
                if arguments and done.returncode == DONE:
                    break
        if statuses[-1] != DONE:
            broken.append(f"recovery ended with statuses {statuses}: {done.stderr[-300:].strip()}")
        completed = self.gateway != "refuses"
        broken += broken_invariants(self.factory, ROTATION, completed=completed)
        broken += hooks.broken(self.factory, completed=completed)
        undelivered = owed - {event["id"] for event in self.factory.gateway.events}
        if undelivered:
            broken.append(f"{len(undelivered)} events were in the journal and never delivered under their id")
        return broken

    def _a_minute_passes(self):
        """Have the journal say that the old certificate was refused a minute ago, where it was refused."""
        content = journals.read(self.device.storage)
        if content is not None and content.get("kept") and content["kept"]["refused"]:
            past = (datetime.now(UTC) - timedelta(seconds=61)).isoformat(timespec="seconds")
            journals.write(self.device.storage, {**content, "kept": {**content["kept"], "refused": past}})

    def failed_softly(self, status, said):
        """Ask after a call that met an error: how it ended, and whether the next calls finish what it left."""
        broken = []
        if status not in (DONE, PENDING, REFUSED, SWITCHED):
            broken.append(f"it ended with status {status}")
        if "Traceback" in said:
            broken.append(f"a traceback: {said[-500:]}")
        if not self.device.current_identity().whole:
            broken.append("the identity in use was not whole after it")
        return broken + self.recover(self.journalled())


@contextlib.contextmanager
def trial(keys, gateway):
    """Run a fresh factory for one trial."""
    refuses = {"refuse_new_certificate": 403} if gateway == "refuses" else {}
    with (
        tempfile.TemporaryDirectory(prefix="crash-") as folder,
        running_factory(Path(folder, "device"), keys, gateway=refuses) as factory,
    ):
        factory.device.write_request(ROTATION)
        yield Trial(factory, gateway, folder)


def record(keys, gateway):
    """Run one whole rotation and give what it did. Raises UncutError, powerloss.ReplayError."""
    with trial(keys, gateway) as tried:
        before = powerloss.snapshot(tried.tops)
        status, calls, said = tried.recorded()
        if status != {"takes": SWITCHED, "refuses": REFUSED, "changes": SWITCHED, "replicas": REFUSED}[gateway]:
            raise UncutError(f"without any cut it ended with status {status}: {said}")
        disk = tried.disk(before)
        for call in calls:
            disk.play(call)
        disk.check()
        exchanges = list(tried.servers.exchanges)
        held, modules = _calls_by_hand(keys, gateway), _module_calls(keys, gateway)
        recorded = Recorded(calls, before, tried.disk(before), tried.tops, exchanges, modules, held)
        broken = tried.recover()
        if broken:
            raise UncutError(f"without any cut: {'; '.join(broken)}")
    return recorded


def _module_calls(keys, gateway):
    """Count the calls of the PKCS#11 module in one whole rotation."""
    if keys != "token":
        return 0
    with trial(keys, gateway) as tried, tempfile.TemporaryDirectory() as folder:
        module = FaultyModule(tried.device, folder)
        tried.device.run(environment=module.environment())
        return module.calls


def _calls_by_hand(keys, gateway):
    """Give what a rotation by hand writes, replaces and removes in the storage folder where systemd runs."""
    if gateway in {"changes", "replicas"}:
        return []
    with trial(keys, gateway) as tried, by_hand.fioconfig_running(tried.device) as runs:
        before = powerloss.snapshot([tried.storage])
        status, calls, said = tried.recorded("rotate", within=by_hand.IN_NAMESPACE)
        if status != {"takes": DONE, "refuses": REFUSED}[gateway] or not runs():
            raise UncutError(f"by hand, without any cut, it ended with status {status}: {said}")
        made = changes(calls, [tried.storage], before)
        # Files that it only reads make the numbers of openat vary.
        return [call for call in made if call.main and call.name in ("fsync", "rename", "unlink", "mkdir")]


def try_site(site):
    """Try every point of a site: give a finding for each."""
    for _ in range(ATTEMPTS):
        try:
            with trial(site.keys, site.gateway) as tried:
                findings = list(_HOW[site.kind](tried, site))
        except Exception as error:
            return [Result(site.name(site.cuts[0]), (f"what was left could not be questioned: {error!r}",))]
        if findings:
            return findings
        if site.kind == "error":
            break  # it has failed elsewhere or not at all, and went on
    broken = ("the new certificate was never shown to the gateway",) if site.is_proof else ()
    return [Result(site.name(cut), broken, happened=False) for cut in site.cuts]


def _cut_at_call(tried, site):
    before = powerloss.snapshot(tried.tops)
    status, calls, _ = tried.recorded(inject=site.call)
    if status is not None:
        return
    disk = tried.disk(before)
    for call in calls:
        disk.play(call)
    killed = tried.moment()
    try:
        disk.check()
    except powerloss.ReplayError:  # killed while another thread was inside a call: whether that was done is not known
        return
    yield from _points(tried, site, killed, disk)


def _cut_in_delivery(tried, site):
    """Cut off by replay, up to the same change of another thread in this run."""
    before = powerloss.snapshot(tried.tops)
    _, calls, _ = tried.recorded()
    mine = [call for call in changes(calls, tried.tops, before) if not call.main]
    if len(mine) < site.number:
        return
    disk = _replayed(tried, before, calls, mine[site.number - 1])
    yield from _points(tried, site, (disk.now(), tried.servers.known(mine[site.number - 1].time), []), disk)


def _replayed(tried, before, calls, last):
    """Give the disk as it was when that call was entered; checks first that the whole recording can be replayed."""
    whole, disk = tried.disk(before), tried.disk(before)
    for call in calls:
        whole.play(call)
    whole.check()
    for call in calls:
        if call is last:
            break
        disk.play(call)
    return disk


def _cut_at_exchange(tried, site):
    if tried.killed_at(site.exchange, site.kind):
        yield Result(site.name(site.kind), tuple(_after_kill(tried, site.name(site.kind))))


def _points(tried, site, killed, disk):
    for cut in site.cuts:
        tried.put_back(killed)
        name = site.name(cut)
        if cut in ("lost", "torn"):
            tried.put(getattr(disk, cut)())
            owed = tried.journalled()
            broken = [*tried.boot(), *tried.recover(owed)]
        elif cut == "twice":
            broken = _cut_again(tried, name)
        else:
            broken = _after_kill(tried, name)
        yield Result(name, tuple(broken))


def _after_kill(tried, name):
    owed = tried.journalled()
    what = random.Random(name).choice(("fioconfig", "fioconfig, boot", "boot"))
    if "fioconfig" in what:
        tried.fioconfig_goes_on()
    broken = tried.boot() if "boot" in what else []
    return [f"({what}) {each}" for each in [*broken, *tried.recover(owed)]]


def _cut_again(tried, name):
    owed = tried.journalled()
    choice = random.Random(name)
    if choice.random() < 0.5:
        tried.fioconfig_goes_on()
    for arguments in choice.sample(RECOVERIES, len(RECOVERIES)):
        before = powerloss.snapshot(tried.tops)
        _, calls, _ = tried.recorded(*arguments)
        found = [
            call
            for call in changes(calls, tried.tops, before)
            if call.done and call.visible and "token.object" not in str(call)
        ]
        if not found:
            continue
        second = choice.choice(found)
        disk = _replayed(tried, before, calls, second)
        tried.put(disk.now())
        tried.servers.put_back(tried.servers.known(second.time))
        owed |= tried.journalled()
        if not arguments and choice.random() < 0.5:
            tried.fioconfig_goes_on()
        broken = [*tried.boot(), *tried.recover(owed)]
        return [f"(then at {second} of {' '.join(arguments) or 'the handler'}) {each}" for each in broken]
    return ["no recovery changed anything"]


def _killed_by_hand(tried, site):
    with by_hand.fioconfig_running(tried.device) as runs:
        status, _, _ = tried.recorded("rotate", inject=site.call, within=by_hand.IN_NAMESPACE)
        if status is not None:
            return
        said, broken = [], []
        for arguments in (("resume", "--unattended"), ("rotate",), *[("resume", "--unattended")] * 3):
            done = subprocess.run(
                [*by_hand.IN_NAMESPACE, *tried.device.command(*arguments)],
                env=tried.device.environment(),
                cwd=REPOSITORY,
                capture_output=True,
                text=True,
                check=False,
                timeout=120,
            )
            said.append(f"{done.returncode} {done.stderr.strip()}")
            if not runs():
                broken.append(f"fioconfig does not run after {' '.join(arguments)} ({said[-1]})")
        if done.returncode != DONE or "Traceback" in "".join(said):
            broken.append(f"recovery ended with {said}")
        completed = tried.gateway != "refuses"
        broken += broken_invariants(tried.factory, ROTATION, completed=completed)
        yield Result(site.name("held"), (*broken, *hooks.broken(tried.factory, completed=completed)))


def _failing_call(tried, site):
    for number, cut in enumerate(site.cuts):
        if number:
            with trial(site.keys, site.gateway) as other:
                yield _with_error(other, site, cut)
        else:
            yield _with_error(tried, site, cut)


def _with_error(tried, site, cut):
    status, calls, said = tried.recorded(inject=site.call, fault=f"error={cut}")
    if any(each.main and each.same_as(site.call) and each.is_of_token_itself for each in calls):
        return Result(site.name(cut), (), happened=False)  # left out, see places.py: it has met that one this time
    return Result(site.name(cut), tuple(tried.failed_softly(status, said)))


def _failing_module(tried, site):
    with tempfile.TemporaryDirectory() as folder:
        module = FaultyModule(tried.device, folder)
        start = tried.moment()
        for cut in site.cuts:
            tried.put_back(start)
            done = tried.device.run(environment=module.environment(site.number, RETURN_VALUES[cut]))
            with plain_module(tried.device):
                broken = tried.failed_softly(done.returncode, done.stderr)
            yield Result(site.name(cut), tuple(broken))


@contextlib.contextmanager
def plain_module(device):
    """Let the device use its real module again."""
    used, device.module = device.module, device.token.module
    yield
    device.module = used


def _together(tried, site):
    """Start the handler, and the others when it has come to its `number`-th request, or all at once."""
    met, moment = threading.Semaphore(0), site.number % 10
    tried.servers.begin()
    tried.servers.meet = lambda *_: met.release()
    processes = [tried.device.start()]
    for _ in range(moment):
        met.acquire(timeout=1.0)
    processes += [tried.device.start(*arguments) for arguments in (("resume",), ("rotate",), ())]
    said = [process.communicate(timeout=120)[1] for process in processes]
    statuses = [process.returncode for process in processes]
    broken = []
    if not set(statuses) <= {DONE, PENDING, SWITCHED} or "Traceback" in "".join(said):
        broken.append(f"they ended with {statuses}: {said}")
    if len(tried.factory.est.csrs) != 1:
        broken.append(f"{len(tried.factory.est.csrs)} certificates were asked for")
    yield Result(site.name("together"), (*broken, *tried.recover()))


_HOW = {
    "call": _cut_at_call,
    "delivery": _cut_in_delivery,
    "before": _cut_at_exchange,
    "after": _cut_at_exchange,
    "held": _killed_by_hand,
    "error": _failing_call,
    "module": _failing_module,
    "together": _together,
}
