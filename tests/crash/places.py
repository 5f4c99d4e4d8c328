"""Where a rotation can be cut off or fail: listed from a recording of one that was not.

| kind of site | what befalls the rotation there | points, one each |
| --- | --- | --- |
| `call` | killed as its main thread enters that system call | `kill`, `twice`, `lost`, `torn` |
| `delivery` | the same at a call of another thread; made by replay of a whole run | `kill`, `lost`, `torn` |
| `before`, `after` | killed before, after the server does that request's work; no answer | the same name |
| `held` | killed as a rotation by hand enters that system call, where systemd runs | `held` |
| `error` | no cut, but the call fails | `ENOSPC`, `EIO` |
| `module` | no cut, but that call of the PKCS#11 module fails | names of return values |
| `together` | the handler (twice), `resume` and a person start at once | the same name |

What is left out, and counted:

* `equal`: a cut that leaves the same files, at the same requests answered, as one before it. SoftHSM opens a lock,
  truncates and writes an object's file once per attribute, so most of its states are one.
* `token.object`: SoftHSM rewrites this file in its place at every start: cut off there its token is gone, whatever uses
  it. Neither cut off nor failed.
* `errors in turn`: in the module's own files a call fails with ENOSPC or EIO, in turn, instead of with each.
"""

import collections
import functools
import hashlib
from dataclasses import dataclass, replace

from tests.modules import RETURN_VALUES

from . import powerloss
from .recording import Call
from .servers import PROOF, Exchange

ERRORS = ("ENOSPC", "EIO")
CUTS = ("kill", "twice", "lost", "torn", "before", "after", "held", "ENOSPC", "EIO", "module", "together")
GATEWAYS = ("takes", "refuses", "changes", "replicas")
"""What it does with the new certificate; `changes`: refuses it once, then the old one once, then accepts everything."""


@dataclass(frozen=True)
class Site:
    """Where it happens, on which device, and what is tried of it."""

    keys: str
    gateway: str
    kind: str
    cuts: tuple[str, ...]
    call: Call | None = None
    exchange: Exchange | None = None
    number: int = 0
    """For `delivery`: the how many-th change by another thread; for `module`, `together`: the how many-th (from 1)."""

    @property
    def is_proof(self):
        """Whether it is where the new certificate is shown to the gateway for the first time."""
        return self.exchange == Exchange(PROOF, 1)

    def name(self, cut):
        """Name one point of it."""
        call = self.call and (f"{self.call} of another thread" if self.kind == "delivery" else str(self.call))
        where = call or self.exchange or f"{self.kind} {self.number}"
        return f"{self.keys}, gateway {self.gateway}: {cut} at {where}"


@dataclass(frozen=True)
class Recorded:
    """What one whole rotation did that was not cut off."""

    calls: list[Call]
    """Of all threads, in the order of time."""
    before: powerloss.Files
    disk: powerloss.Disk
    """Nothing is played to it yet."""
    folders: list[str]
    exchanges: list[tuple[float, Exchange]]
    module_calls: int
    by_hand: list[Call]
    """What the main thread of a rotation by hand writes, replaces and removes in the storage folder."""


def changes(calls, folders, before):
    """Give those calls that change (or make durable) anything below the folders."""
    existing, found = set(before.files), []
    for call in calls:
        if call.changes(folders, existing):
            existing.update(call.paths)
            found.append(call)
    return found


def sites(keys, gateway, recorded, cuts, left_out):
    """List the sites of one key mode and gateway; what is left out is counted in `left_out` (a Counter)."""
    found = [
        *_at_calls(keys, gateway, recorded, left_out),
        *(
            Site(keys, gateway, moment, (moment,), exchange=exchange)
            for _, exchange in recorded.exchanges
            for moment in ("before", "after")
        ),
    ]
    found += [Site(keys, gateway, "held", ("held",), call) for call in recorded.by_hand]
    if gateway != "changes":
        found += _failing(keys, gateway, recorded, left_out)
    if gateway == "takes":
        found += [Site(keys, gateway, "together", ("together",), number=number) for number in range(1, 51)]
    wanted = [_with(site, tuple(cut for cut in site.cuts if _family(cut) in cuts)) for site in found]
    return [site for site in wanted if site.cuts]


def _at_calls(keys, gateway, recorded, left_out):
    """List cuts at calls: each of them only where it leaves what none before it has left."""
    seen, others = set(), 0
    calls = iter(recorded.calls)
    for change in changes(recorded.calls, recorded.folders, recorded.before):
        for call in calls:
            if call is change:
                break
            recorded.disk.play(call)
        others += not change.main
        if "token.object" in str(change):
            left_out["token.object"] += 1
            recorded.disk.play(change)
            continue
        answered = sum(moment < change.time for moment, _ in recorded.exchanges)
        new = []
        for cut, state in (("kill", "now"), ("lost", "lost"), ("torn", "torn")):
            key = (cut, answered, _digest(getattr(recorded.disk, state)()))
            if key in seen:
                left_out["equal"] += 1
            else:
                seen.add(key)
                new.append(cut)
        if "kill" in new and change.main:
            new.append("twice")
        if new:
            yield Site(keys, gateway, "call" if change.main else "delivery", tuple(new), change, number=others)
        recorded.disk.play(change)


def _failing(keys, gateway, recorded, left_out):
    """List calls that fail: each system call, and of a token each call of its module."""
    for number, call in enumerate(changes(recorded.calls, recorded.folders, recorded.before)):
        if "token.object" in str(call) or not call.main:
            continue
        if any(path.startswith(recorded.folders[0]) for path in call.paths):
            yield Site(keys, gateway, "error", ERRORS, call)
        else:
            left_out["errors in turn"] += 1
            yield Site(keys, gateway, "error", (ERRORS[number % len(ERRORS)],), call)
    values = list(RETURN_VALUES)
    for number in range(1, recorded.module_calls + 1):
        some = tuple(values) if gateway == "takes" else (values[number % len(values)],)
        yield Site(keys, gateway, "module", some, number=number)


def _digest(state):
    digest = hashlib.sha256(repr(sorted(state.folders)).encode())
    for path, saved in sorted(state.files.items()):
        digest.update(_one(path, saved.content))
    return digest.digest()


@functools.lru_cache(1000)
def _one(path, content):
    return hashlib.sha256(path.encode() + b"\0" + content).digest()


def _family(cut):
    return "module" if cut in RETURN_VALUES else cut


def _with(site, cuts):
    return replace(site, cuts=cuts)


def new_left_out():
    """Count nothing yet."""
    return collections.Counter({"equal": 0, "token.object": 0, "errors in turn": 0})
