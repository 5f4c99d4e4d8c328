"""What happened in the last rotations, for people: one JSON object a line, in the journal's folder.

Nothing depends on it. It is not synced to the disk, and a line that a power loss tore is passed over.
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
"""`Entry.kind` of the end of a rotation whose new key the device gateway still expects."""
MAX_BYTES = 64 * 1024
"""Some 300 events: the older half goes when there are more."""


@dataclass(frozen=True)
class Entry:
    """One thing that happened."""

    time: str
    """RFC 3339, UTC, as the device's clock was."""
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
        """Note events (in the gateway's shape) of that `Entry.kind`. What cannot be written is left out."""
        if not events:
            return
        try:
            with open(self._path, "a", encoding="utf-8", errors="replace", opener=_for_its_owner) as file:
                file.writelines(json.dumps(asdict(_entry(event, kind)), ensure_ascii=False) + "\n" for event in events)
            if self._path.stat().st_size > MAX_BYTES:
                lines = read_regular(self._path).splitlines(keepends=True)
                atomic_write(self._path, b"".join(lines[len(lines) // 2 :]), mode=0o600)
        except OSError as error:
            log.info("the history is not kept: %s", error)

    def knows(self, rotation_id: str, kind: str) -> bool:
        """Tell whether that kind of refusal of that rotation was noted."""
        try:
            return any((each.rotation_id, each.kind) == (rotation_id, kind) for each in self.read())
        except OSError:
            return False

    def read(self) -> list[Entry]:
        """Give what happened, oldest first. Raises OSError other than that there is none."""
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
    """Say of which successes the gateway does not know yet: `undelivered` (in its shape).

    A completion is noted before the gateway is asked. One that was taken back, because the gateway refused the new
    certificate, is left out: it never was one.
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
        elif entry.event == STARTED:  # an end after this one is that of another attempt
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
