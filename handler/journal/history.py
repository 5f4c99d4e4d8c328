"""The history of the last rotations, for people: one JSON object per line, in the journal's folder.

It is not flushed, and a line that a power loss tore is skipped.
"""

import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from handler.device.storage import atomic_write, read_regular

from .decoding import read
from .events import STARTED
from .pending import COMPLETED

log = logging.getLogger(__name__)

NAME = "history.jsonl"
ROLLED_BACK = "rolled-back"
"""The `Entry.kind` of a roll-back after which the device gateway still expects the new key."""
MAX_BYTES = 64 * 1024
"""About 300 events; beyond that, the older half is dropped."""


@dataclass(frozen=True)
class Entry:
    """One event."""

    time: str
    """RFC 3339, UTC, by the device's clock."""
    rotation_id: str
    event: str
    success: bool
    details: str = ""
    kind: str = ""
    """The kind of refusal, or ROLLED_BACK."""


class History:
    """The history in a folder."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME

    def append(self, events: Sequence[Mapping[str, Any]], kind: str = "") -> None:
        """Append events (in the gateway's format) with that `Entry.kind`. A failure is only logged."""
        if not events:
            return
        try:
            with open(self._path, "a", encoding="utf-8", errors="replace", opener=_for_its_owner) as file:
                file.writelines(json.dumps(asdict(_entry(event, kind)), ensure_ascii=False) + "\n" for event in events)
            if self._path.stat().st_size > MAX_BYTES:
                lines = read_regular(self._path).splitlines(keepends=True)
                atomic_write(self._path, b"".join(lines[len(lines) // 2 :]), mode=0o600)
        except OSError as error:
            log.info("cannot write the history: %s", error)

    def knows(self, rotation_id: str, kind: str) -> bool:
        """Tell whether this kind of refusal of this rotation is recorded."""
        try:
            return any((each.rotation_id, each.kind) == (rotation_id, kind) for each in self.read())
        except OSError:
            return False

    def read(self) -> list[Entry]:
        """Return the entries, oldest first; [] without a file. Raises OSError."""
        try:
            lines = read_regular(self._path).splitlines()
        except FileNotFoundError:
            return []
        entries = []
        for line in lines:
            try:
                entries.append(read(Entry, json.loads(line), NAME))
            except (ValueError, RecursionError):
                continue
        return entries


def told_apart(entries: Sequence[Entry], undelivered: Sequence[Mapping[str, Any]]) -> list[Entry]:
    """Mark successes that are not delivered yet, by the `undelivered` events (in the gateway's format).

    A completion is recorded before the gateway is asked; it is omitted if the gateway then refused the certificate.
    """
    waiting = [_entry(event) for event in undelivered]
    ended: dict[str, bool] = {}
    told = []
    for entry in reversed(entries):
        details = "not delivered yet" if entry.success and entry in waiting else entry.details
        if entry.event == COMPLETED:
            if entry.success and ended.get(entry.rotation_id) is False:
                continue
            ended[entry.rotation_id] = entry.success
        elif entry.event == STARTED:  # a later end belongs to another attempt
            ended.pop(entry.rotation_id, None)
        told.append(replace(entry, details=details))
    return told[::-1]


def _for_its_owner(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)


def _entry(event: Mapping[str, Any], kind: str = "") -> Entry:
    body = event["event"]
    return Entry(
        time=event["deviceTime"],
        rotation_id=body["correlationId"],
        event=event["eventType"]["id"],
        success=body["success"],
        details=body.get("details", ""),
        kind=kind,
    )
