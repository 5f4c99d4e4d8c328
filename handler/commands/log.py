"""`log`: the events of the last rotations, as a timeline."""

import argparse
import contextlib
import itertools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from handler.console.output import print_line, tell
from handler.console.settings import Settings
from handler.console.table import folded, hanging
from handler.console.terminal import Console
from handler.device.storage import FOLDER
from handler.errors import RequestRefusedError, harmless
from handler.exit_status import DONE
from handler.journal.decoding import MalformedError
from handler.journal.history import Entry, History, told_apart
from handler.journal.pending import LaterJournalError, events_of, load
from handler.journal.snapshot import Snapshot

from .formats.envelope import as_json

MIN_NAME = 20
"""Columns of an event's name on the narrowest console."""


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Show the last rotations as a timeline. Raises OutputError, RequestRefusedError."""
    storage = settings.storage_folder()
    if not storage.is_dir():
        raise RequestRefusedError(f"the storage folder {storage} does not exist or is not a folder: check storage.path")
    number = int(options.number) if options.number else None
    entries = last(told_apart(History(storage / FOLDER).read(), _undelivered(storage)), number)
    view = Snapshot.of(storage)
    waiting = view.pending.waiting if view.pending else None
    waits_for = view.problem or (waiting.reason if waiting else None)
    if options.json:
        print_line(as_json("log", {"rotations": list(_rotations(entries)), "waits_for": waits_for}))
        return DONE
    for line in timeline(entries, Console.of(sys.stdout).width):
        print_line(line)
    if waits_for:
        tell(waits_for, "pending: ")
    elif not entries:
        tell("no rotation was started on this device")
    return DONE


def last(entries: Sequence[Entry], rotations: int | None) -> list[Entry]:
    """Return the entries of the most recently active rotations; of all if `rotations` is None."""
    ids = list(dict.fromkeys(entry.rotation_id for entry in reversed(entries)))
    kept = set(ids[:rotations])
    return [entry for entry in entries if entry.rotation_id in kept]


def _rotations(entries: Sequence[Entry]) -> Iterator[dict[str, Any]]:
    """Yield the rotations in the order of the timeline; one that was continued after another appears again."""
    for rotation_id, events in itertools.groupby(entries, lambda entry: entry.rotation_id):
        yield {
            "rotation_id": rotation_id,
            "events": [
                {"time": each.time, "event": each.event, "success": each.success, "details": each.details}
                for each in events
            ],
        }


def _undelivered(storage: Path) -> list[dict[str, Any]]:
    """Return the undelivered events; [] if the journal cannot be read."""
    with contextlib.suppress(MalformedError, LaterJournalError):
        if data := load(storage):
            return events_of(data)
    return []


def timeline(entries: Sequence[Entry], width: int | None = None) -> Iterator[str]:
    """Yield the lines of a timeline: a paragraph per rotation, a line or two per event."""
    name_width = max((len(entry.event) for entry in entries), default=0)
    if width is not None:
        name_width = max(MIN_NAME, min(name_width, width - len(_line("", "", "failed"))))
    rotation_id = before = None
    for entry in entries:
        if entry.rotation_id != rotation_id:
            rotation_id, before = entry.rotation_id, None
            yield from hanging("rotation ", rotation_id, width)
        first, *rest = folded(harmless(entry.event), name_width)
        yield _line(
            harmless(entry.time.replace("T", " ").removesuffix("Z")),
            f"{first:{name_width}}",
            "ok" if entry.success else "failed",
        )
        yield from (_line("", part).rstrip() for part in rest)
        if entry.details:
            again = entry.details == before and not entry.success
            yield from hanging(_line(""), "for the same reason" if again else entry.details, width)
        before = entry.details


def _line(time: str, *rest: str) -> str:
    return "  ".join(("", f"{time:19}", *(rest or ("",))))
