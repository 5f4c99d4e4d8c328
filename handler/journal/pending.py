"""What is pending, as far as the daemon and `status` have to know it: read from the journal without loading much.

The daemon waits for weeks in little memory, so nothing here may load cryptography, requests or a PKCS#11 module.

What can be found in the journal's place, and what becomes of it:

| found | |
| --- | --- |
| nothing | nothing is pending |
| a journal of a later version | refused by every call, and left as it is: that version goes on with it |
| no file, 4 MB or more, no JSON, not of the journal's shape | broken: the next call that may write sets it aside |
| nothing, but one that was set aside before | its rotation may have left values to its key (lost_journal.py) |
| fields that nobody here knows | left out |
| a `waiting` that is not understood | left out: it is a hint |
"""

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from handler.device.storage import FOLDER, NotRegularError, read_regular
from handler.errors import RefusedError

from .decoding import MalformedError, read
from .due import is_due
from .records import parse, state_of

JOURNAL = "journal"
EARLIER = "rotation.json"
"""The journal of 0.1.0; beside a journal of today, a version that 0.1.0 refuses."""
COMPLETED = "CertRotationCompleted"
"""The event that ends a rotation, well or not."""
BROKEN, LEFT, MENDED = "rotation.broken", "rotation.refused", "rotation.mended"
"""What a rotation left that nobody goes on with; what was refused to make readable; what is readable again."""
LOST = (
    "a rotation was given up, or its journal could not be read and was set aside: what it has left is looked at by the "
    "next `renew-client-cert resume`"
)
MARKER = "pending"
"""Exists while the daemon has something to do: the path unit looks for it."""
VERSION = 2
GUARD = json.dumps({"version": VERSION}).encode()
"""What EARLIER holds today: only 0.1.0 reads it, so it is not flushed, and a part of it says as much as the whole."""
MAX_BYTES = 4 * 1024 * 1024
"""Bytes: 200 events of the greatest length beside the longest chain that an EST server may send."""
LOCKED, LAST = 2, 7
"""The step by which the gateway knows the next key, and the last one there is (state.py)."""
TOKEN, EST, GATEWAY, CLOCK, NETWORK = "token", "est", "gateway", "clock", "network"
BUSY, UNREACHABLE, UNTRUSTED = "busy", "unreachable", "untrusted"
"""What can be waited for (`Waiting.kind`): EST and GATEWAY only if that server asked for it; then what is wrong with
the server that the reason names."""
EVENTS = "events"
"""The `Waiting.kind` of events that the gateway refuses for good: no daemon offers them, but every other call."""
MAX_REASON = 1000
MAX_ATTEMPTS = 1_000_000


class LaterJournalError(RefusedError):
    """A later version of this program wrote the journal: only that one knows what it means."""


@dataclass(frozen=True)
class Waiting:
    """Why the last call could not go on."""

    reason: str
    until: str | None = None
    """A time (RFC 3339) before which a server asks not to come back, or the clock cannot be right."""
    attempts: int = 1
    """Calls in a row that came no further."""
    kind: str | None = None
    """TOKEN, EST, GATEWAY, CLOCK, NETWORK, BUSY, UNREACHABLE or UNTRUSTED; None if it is only tried again."""
    label: str | None = None
    """The token's, where that is waited for."""

    @property
    def moment(self) -> float | None:
        """`until` in seconds since 1970."""
        return None if self.until is None else datetime.fromisoformat(self.until).timestamp()

    @property
    def what(self) -> str | None:
        """What is waited for, in words; None where there is nothing to name."""
        token = f"token {self.label}" if self.label else "the token"
        names = {TOKEN: token, EST: "the EST server", GATEWAY: "the device gateway"}
        return (names | {CLOCK: "network time", NETWORK: "the network"}).get(self.kind or "")

    @property
    def words(self) -> str:
        """What is waited for, and why; a server is named once."""
        what = self.what
        return f"{what}: {self.reason.removeprefix(what.removeprefix('the ') + ' ')}" if what else self.reason


@dataclass(frozen=True)
class Pending:
    """The journal in short."""

    device: str = ""
    rotation_id: str | None = None
    """The rotation that is under way, else the one that is requested."""
    step: int = 0
    """The last step that is done; 0 for one that is only requested."""
    refused: str | None = None
    waiting: Waiting | None = None
    undelivered: int = 0
    kept: str | None = None
    """The rotation that was rolled back, and whose key is kept as the gateway may have taken it after all."""
    due: bool = True
    """Whether there is something that can be done without being asked."""
    problem: str | None = None
    """Why the journal is broken, or LOST; then nothing else is known, and the next call sets it aside, or looks."""


@dataclass(frozen=True)
class _Asked:
    """The part of a request that is needed here."""

    rotation_id: str


@dataclass(frozen=True)
class _Rotation:
    """The part of a rotation that is needed here."""

    request: _Asked
    step: int
    refused: str | None
    announced: bool = False

    @property
    def locked(self) -> bool:
        return self.step >= LOCKED or self.announced


@dataclass(frozen=True)
class _Kept:
    """The part of a kept rotation that is needed here."""

    rotation: _Rotation
    since: str


def marker(storage: Path) -> Path:
    """Give the file that exists while the daemon has something to do."""
    return storage / FOLDER / MARKER


def read_pending(storage: Path) -> Pending | None:
    """Read the journal below the storage folder; None where nothing is pending.

    Raises LaterJournalError, OSError.
    """
    try:
        data = load(storage)
        if data is None:
            broken, left = ((storage / FOLDER / each).exists() for each in (BROKEN, LEFT))
            return Pending(problem=LOST, due=broken) if broken or left else None
        return summary(data)
    except MalformedError as error:
        return Pending(problem=str(error))


def is_there(storage: Path) -> bool:
    """Tell whether there is a journal, of whatever version and in whatever state."""
    return any((storage / FOLDER / name).exists() for name in (JOURNAL, EARLIER))


def load(storage: Path) -> Mapping[str, Any] | None:
    """Read what the journal says, that of this version or an earlier one; None where nothing is pending.

    Raises MalformedError, LaterJournalError, OSError.
    """
    path = storage / FOLDER / JOURNAL
    records = parse(_content(path) or b"")[0]
    if records:
        data: dict[str, Any] = state_of(records)
    else:  # none, or its first record was cut off
        path = storage / FOLDER / EARLIER
        content = _content(path)
        if content is None:
            return None
        data = _earlier(content)
    version = data.get("version", 1)
    if type(version) is not int or version < 1:
        raise MalformedError(f"version: expected 1 to {VERSION}, found {str(version)[:20]!r}")
    if version > VERSION:
        raise LaterJournalError(
            f"{path} was written by a later version of this program (journal version {str(version)[:20]}, this one "
            f"knows {VERSION}), so nothing is touched: install that version again"
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
    if isinstance(rotation, dict):  # it may have announced the key without having written that down
        rotation.setdefault("announced", rotation.get("step") != 0)
    return data


def summary(data: Mapping[str, Any]) -> Pending:
    """Give the journal in short. Raises MalformedError."""
    rotation = None if data.get("rotation") is None else read(_Rotation, data["rotation"], "rotation")
    requested = None if data.get("requested") is None else read(_Asked, data["requested"], "requested")
    if rotation is not None and not 0 <= rotation.step <= LAST:
        raise MalformedError(f"rotation.step: expected 0 to {LAST}, found {rotation.step}")
    kept = None if data.get("kept") is None else read(_Kept, data["kept"], "kept")
    if kept is not None:
        _check_time(kept.since, "kept.since")
    undelivered, waiting = len(events_of(data)), waiting_of(data)
    asked = rotation.request if rotation else requested
    return Pending(
        device=device_of(data),
        rotation_id=asked.rotation_id if asked else None,
        step=rotation.step if rotation else 0,
        refused=rotation.refused if rotation else None,
        waiting=waiting,
        undelivered=undelivered,
        kept=kept.rotation.request.rotation_id if kept else None,
        due=is_due(
            rotation,
            requested=requested is not None,
            offered=undelivered > 0 and not (waiting and waiting.kind == EVENTS),
            kept_since=kept.since if kept else None,
        ),
    )


def _check_time(text: str, where: str) -> None:
    try:
        if datetime.fromisoformat(text).tzinfo is None:
            raise ValueError("it has no zone")
    except ValueError as error:
        raise MalformedError(f"{where}: expected a time, found {text[:40]!r}") from error


def device_of(data: Mapping[str, Any]) -> str:
    """Give the device's id, "" where it is not known: it only serves the jitter."""
    device = data.get("device")
    return device if isinstance(device, str) else ""


def waiting_of(data: Mapping[str, Any]) -> Waiting | None:
    """Give why the last call could not go on; None where that is not understood."""
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
    """Give the events as they were written. Raises MalformedError where one is none that this program made."""
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
            raise MalformedError(f"events[{at}]: expected an event in the gateway's shape")
    return events


def _content(path: Path) -> bytes | None:
    """Read the file, None where there is none. Raises MalformedError, OSError."""
    try:
        data = read_regular(path, MAX_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except NotRegularError as error:
        raise MalformedError("it is not a regular file") from error
    if len(data) > MAX_BYTES:
        raise MalformedError(f"it is longer than {MAX_BYTES} bytes")
    return data
