"""What happened in the last rotations, for people: one JSON object a line, in the journal's folder.

Nothing depends on it. It is not synced to the disk, and a line that a power loss tore is passed over.
"""

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .typed import read

log = logging.getLogger(__name__)

NAME = "history.jsonl"
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


class History:
    """The history in a folder."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME

    def append(self, events: Sequence[Mapping[str, Any]]) -> None:
        """Note events (in the gateway's shape). What cannot be written is left out."""
        if not events:
            return
        try:
            with open(self._path, "a", encoding="utf-8", errors="replace", opener=_for_its_owner) as file:
                file.writelines(json.dumps(asdict(_entry(event)), ensure_ascii=False) + "\n" for event in events)
            if self._path.stat().st_size > MAX_BYTES:
                lines = self._path.read_bytes().splitlines(keepends=True)
                self._path.write_bytes(b"".join(lines[len(lines) // 2 :]))
        except OSError as error:
            log.info("the history is not kept: %s", error)

    def read(self) -> list[Entry]:
        """Give what happened, oldest first. Raises OSError other than that there is none."""
        try:
            lines = self._path.read_bytes().splitlines()
        except FileNotFoundError:
            return []
        entries = []
        for line in lines:
            try:
                entries.append(read(Entry, json.loads(line), NAME))
            except (ValueError, RecursionError):
                continue
        return entries


def timeline(entries: Sequence[Entry]) -> Iterator[str]:
    """Give the lines of a timeline: a paragraph per rotation, a line per event."""
    width = max((len(entry.event) for entry in entries), default=0)
    rotation_id = None
    for entry in entries:
        if entry.rotation_id != rotation_id:
            rotation_id = entry.rotation_id
            yield f"rotation {rotation_id}"
        time = entry.time.replace("T", " ").removesuffix("Z")
        yield f"  {time}  {entry.event:{width}}  {'ok' if entry.success else 'failed'}"
        if entry.details:
            yield f"  {'':19}  {entry.details}"


def _for_its_owner(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _entry(event: Mapping[str, Any]) -> Entry:
    body = event["event"]
    return Entry(
        time=event["deviceTime"],
        rotation_id=body["correlationId"],
        event=event["eventType"]["id"],
        success=body["success"],
        details=body.get("details", ""),
    )
