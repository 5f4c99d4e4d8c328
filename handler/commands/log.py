"""`log`: what happened in the last rotations, as a timeline."""

import argparse
import os
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
from handler.journal.pending import LaterJournalError, events_of, load, read_pending

MIN_NAME = 20
"""Columns of an event's name on the narrowest console."""


def run(_options: argparse.Namespace, settings: Settings) -> int:
    """Show the last rotations as a timeline. Raises OutputError, RequestRefusedError."""
    storage = settings.storage_folder()
    if not storage.is_dir():
        raise RequestRefusedError(f"the storage folder {storage} is not there, or no folder: look at storage.path")
    entries = History(storage / FOLDER).read()
    for line in timeline(told_apart(entries, _undelivered(storage)), Console.of(sys.stdout, os.environ).width):
        print_line(line)
    waits_for = _waits_for(storage)
    if waits_for:
        tell(waits_for, "pending: ")
    elif not entries:
        tell("no rotation has been begun on this device")
    return DONE


def _undelivered(storage: Path) -> list[dict[str, Any]]:
    """Give the events that the gateway has not taken; none where that cannot be known."""
    try:
        data = load(storage)
        return [] if data is None else events_of(data)
    except (MalformedError, LaterJournalError):
        return []


def _waits_for(storage: Path) -> str | None:
    """Say what a pending rotation waits for, or why that cannot be known."""
    try:
        pending = read_pending(storage)
    except LaterJournalError as error:
        return str(error)
    if pending and pending.problem:
        return f"unknown, the journal is broken: {pending.problem}"
    return pending.waiting.reason if pending and pending.waiting else None


def timeline(entries: Sequence[Entry], width: int | None = None) -> Iterator[str]:
    """Give the lines of a timeline for a console of that width: a paragraph per rotation, a line or two per event."""
    name_width = max((len(entry.event) for entry in entries), default=0)
    if width is not None:
        name_width = max(MIN_NAME, min(name_width, width - len(_line("", "", "failed"))))
    rotation_id = None
    for entry in entries:
        if entry.rotation_id != rotation_id:
            rotation_id = entry.rotation_id
            yield from hanging("rotation ", rotation_id, width)
        first, *rest = folded(harmless(entry.event), name_width)
        yield _line(harmless(entry.time.replace("T", " ").removesuffix("Z")), f"{first:{name_width}}", _end(entry))
        yield from (_line("", part).rstrip() for part in rest)
        if entry.details:
            yield from hanging(_line(""), entry.details, width)


def _line(time: str, *rest: str) -> str:
    return "  ".join(("", f"{time:19}", *(rest or ("",))))


def _end(entry: Entry) -> str:
    return "ok" if entry.success else "failed"
