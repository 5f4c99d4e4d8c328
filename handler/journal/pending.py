"""A summary of the journal for the daemon and `status`.

The daemon waits in little memory, so nothing here may import cryptography, requests or a PKCS#11 module.

| found in place of the journal | consequence |
| --- | --- |
| nothing | nothing is pending |
| a journal of a later version | every call refuses it and leaves it to that version |
| no file, 4 MB or more, no JSON, or another structure | broken: the next call that may write sets it aside |
| nothing, but a journal that was set aside | values may be encrypted to its key (lost_journal.py) |
| unknown fields, or a `waiting` that cannot be read | ignored |
"""

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from handler.device.storage import FOLDER, NotRegularError, read_regular
from handler.errors import RefusedError

from .decoding import MalformedError, read
from .records import parse, state_of

JOURNAL = "journal"
EARLIER = "rotation.json"
"""The journal of 0.1.0; now a version that 0.1.0 refuses."""
COMPLETED = "CertRotationCompleted"
"""The event that ends a rotation, well or not."""
BROKEN, LEFT = "rotation.broken", "rotation.refused"
"""A journal that was set aside; the same after a refused repair."""
LOST = (
    "a rotation was given up, or its journal was unreadable and was set aside: "
    "run `renew-client-cert resume` to clean up"
)
MARKER = "pending"
"""Exists while the daemon has something to do: the path unit watches it."""
VERSION = 2
GUARD = json.dumps({"version": VERSION}).encode()
"""The content of EARLIER now. Only 0.1.0 reads it, so it is not flushed, and a part of it serves as well."""
MAX_BYTES = 4 * 1024 * 1024
"""Bytes: room for 200 events of the greatest length and the longest certificate chain."""
LOCKED, LAST = 2, 7
"""The step after which the gateway knows the next key, and the last step (rotation_state.py)."""
TOKEN, EST, GATEWAY, CLOCK, NETWORK = "token", "est", "gateway", "clock", "network"
BUSY, UNREACHABLE, UNTRUSTED = "busy", "unreachable", "untrusted"
"""Values of `Waiting.kind`. EST and GATEWAY: that server asked for a delay; BUSY, UNREACHABLE and UNTRUSTED: what is
wrong with the server that the reason names."""
EVENTS = "events"
"""The `Waiting.kind` of events that the gateway permanently refuses: all calls but the daemon post them again."""
WATCHED = 24 * 3600.0
"""Seconds after a roll-back in which the daemon checks whether the gateway accepts the old identity."""
MAX_REASON = 1000
MAX_ATTEMPTS = 1_000_000


class LaterJournalError(RefusedError):
    """A later version of this program wrote the journal."""


@dataclass(frozen=True)
class Waiting:
    """Why the last call could not continue."""

    reason: str
    until: str | None = None
    """A time (RFC 3339) before which a retry makes no sense: a server asked for it, or the clock is wrong."""
    attempts: int = 1
    """Consecutive attempts without progress."""
    kind: str | None = None
    """TOKEN, EST, GATEWAY, CLOCK, NETWORK, BUSY, UNREACHABLE, UNTRUSTED or EVENTS; None if it is simply retried."""
    label: str | None = None
    """The label of the token, for TOKEN."""

    @property
    def moment(self) -> float | None:
        """`until` in seconds since 1970."""
        return None if self.until is None else datetime.fromisoformat(self.until).timestamp()

    @property
    def what(self) -> str | None:
        """What the rotation waits for, in words; None if there is nothing to name."""
        token = f"token {self.label}" if self.label else "the token"
        names = {TOKEN: token, EST: "the EST server", GATEWAY: "the device gateway"}
        return (names | {CLOCK: "network time", NETWORK: "the network"}).get(self.kind or "")

    @property
    def words(self) -> str:
        """Why it waits; what it waits for comes first, unless the reason names that too."""
        what = self.what or ""
        named = f"'{self.label}'" in self.reason or what.removeprefix("the ").lower() in self.reason.lower()
        return self.reason if named else f"{what}: {self.reason}"


class Pending(NamedTuple):
    """The summary."""

    device: str = ""
    rotation_id: str | None = None
    """The pending rotation, or else the requested one."""
    step: int = 0
    """The last completed step; 0 for a requested rotation."""
    refused: str | None = None
    waiting: Waiting | None = None
    undelivered: int = 0
    kept: str | None = None
    """The rotation that was rolled back, and whose identity is kept because the gateway may have accepted it."""
    due: bool = True
    """Whether the daemon has something to do."""
    problem: str | None = None
    """Why the journal is broken, or LOST; then nothing else is known."""


@dataclass(frozen=True)
class _Asked:
    """The required part of a request."""

    rotation_id: str


@dataclass(frozen=True)
class _Rotation:
    """The required part of a rotation."""

    request: _Asked
    step: int
    refused: str | None
    announced: bool = False

    @property
    def locked(self) -> bool:
        return self.step >= LOCKED or self.announced


@dataclass(frozen=True)
class _Kept:
    """The required part of a kept rotation."""

    rotation: _Rotation
    since: str


def marker(storage: Path) -> Path:
    """Return the path of the marker."""
    return storage / FOLDER / MARKER


def read_pending(storage: Path) -> Pending | None:
    """Read the journal in the storage folder; None if nothing is pending. Raises LaterJournalError, OSError."""
    try:
        data = load(storage)
        if data is None:
            return Pending(problem=LOST, due=(storage / FOLDER / BROKEN).exists()) if is_lost(storage) else None
        return summary(data)
    except MalformedError as error:
        return Pending(problem=str(error))


def is_there(storage: Path) -> bool:
    """Tell whether there is a journal, of any version and in any state."""
    return any((storage / FOLDER / name).exists() for name in (JOURNAL, EARLIER))


def is_lost(storage: Path) -> bool:
    """Tell whether the journal of a rotation was lost, and some values may be unreadable since."""
    return any((storage / FOLDER / name).exists() for name in (BROKEN, LEFT))


def load(storage: Path) -> Mapping[str, Any] | None:
    """Return what the journal says; None if nothing is pending. Raises MalformedError, LaterJournalError, OSError."""
    path = storage / FOLDER / JOURNAL
    records = parse(bounded_content(path, MAX_BYTES) or b"")[0]
    if records:
        data: dict[str, Any] = state_of(records)
    else:  # none, or its first record is torn
        path = storage / FOLDER / EARLIER
        content = bounded_content(path, MAX_BYTES)
        if content is None:
            return None
        data = _earlier(content)
    version = data.get("version", 1)
    if type(version) is not int or version < 1:
        raise MalformedError(f"version: expected 1 to {VERSION}, found {str(version)[:20]!r}")
    if version > VERSION:
        raise LaterJournalError(
            f"a later version of the program wrote {path} (journal version {str(version)[:20]}, supported: {VERSION}): "
            "install that version again; nothing was changed"
        )
    return None if version == VERSION and not records else data


def _earlier(content: bytes) -> dict[str, Any]:
    """Read a journal of 0.1.0, which was one JSON object. Raises MalformedError."""
    if GUARD.startswith(content):
        return {"version": VERSION}
    try:
        data = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise MalformedError(f"it is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise MalformedError(f"expected a JSON object, found {type(data).__name__}")
    rotation = data.get("rotation")
    if isinstance(rotation, dict):  # it may have announced the key without recording that
        rotation.setdefault("announced", rotation.get("step") != 0)
    return data


def summary(data: Mapping[str, Any]) -> Pending:
    """Summarize the journal. Raises MalformedError."""
    rotation = None if data.get("rotation") is None else read(_Rotation, data["rotation"], "rotation")
    requested = None if data.get("requested") is None else read(_Asked, data["requested"], "requested")
    if rotation is not None and not 0 <= rotation.step <= LAST:
        raise MalformedError(f"rotation.step: expected 0 to {LAST}, found {rotation.step}")
    kept = None if data.get("kept") is None else read(_Kept, data["kept"], "kept")
    if kept is not None:
        _check_time(kept.since, "kept.since")
    device, undelivered, waiting = data.get("device"), len(events_of(data)), _waiting(data)
    offered = undelivered > 0 and not (waiting and waiting.kind == EVENTS)
    asked = rotation.request if rotation else requested
    if rotation is None:
        due = requested is not None or offered or (kept is not None and _is_watched(kept.since))
    else:  # a refused one continues only if it has to be cleaned up, and blocks a requested one otherwise
        due = rotation.refused is None or not rotation.locked or offered
    return Pending(
        device=device if isinstance(device, str) else "",
        rotation_id=asked.rotation_id if asked else None,
        step=rotation.step if rotation else 0,
        refused=rotation.refused if rotation else None,
        waiting=waiting,
        undelivered=undelivered,
        kept=kept.rotation.request.rotation_id if kept else None,
        due=due,
    )


def _check_time(text: str, where: str) -> None:
    try:
        if datetime.fromisoformat(text).tzinfo is None:
            raise ValueError("it has no zone")
    except ValueError as error:
        raise MalformedError(f"{where}: expected a time, found {text[:40]!r}") from error


def _is_watched(since: str) -> bool:
    """Tell whether that is less than a day ago, in either direction: the clock may be wrong."""
    return abs(datetime.now(UTC).timestamp() - datetime.fromisoformat(since).timestamp()) < WATCHED


def _waiting(data: Mapping[str, Any]) -> Waiting | None:
    """Return why the last call could not continue; None if that cannot be read."""
    if data.get("waiting") is None:
        return None
    try:
        waiting = read(Waiting, data["waiting"], "waiting")
        if waiting.until is not None and datetime.fromisoformat(waiting.until).tzinfo is None:
            return None
    except ValueError:
        return None
    return waiting if 0 <= waiting.attempts <= MAX_ATTEMPTS else None


def events_of(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the events as they were written. Raises MalformedError if one is not an event of this program."""
    events = data.get("events")
    if not isinstance(events, list):
        raise MalformedError(f"events: expected a list, found {type(events).__name__}")
    for at, event in enumerate(events):
        texts: list[object] = []
        with contextlib.suppress(KeyError, TypeError, IndexError):
            body = event["event"]
            texts = [event["id"], event["deviceTime"], event["eventType"]["id"], body["correlationId"]]
            texts.append(body.get("details", ""))
        if not texts or not all(isinstance(text, str) for text in texts) or type(body.get("success")) is not bool:
            raise MalformedError(f"events[{at}]: expected an event in the device gateway's format")
    return events


def bounded_content(path: Path, most: int) -> bytes | None:
    """Read a file of at most so many bytes; None if it does not exist. Raises MalformedError, OSError."""
    try:
        data = read_regular(path, most + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except NotRegularError as error:
        raise MalformedError("it is not a regular file") from error
    if len(data) > most:
        raise MalformedError(f"it is longer than {most} bytes")
    return data
