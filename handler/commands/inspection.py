"""The commands that only look: status, check, slots, log. None takes the lock; all say what they find in lines of text.

What cannot be shown is told too. Exit status 75: it may pass by itself; 78: somebody has to mend it first.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from handler.console.arguments import Settings
from handler.console.output import print_line, tell
from handler.console.terminal import Console
from handler.device.configuration.values import Configured
from handler.errors import FORESEEABLE, RequestRefusedError, describe, is_final
from handler.exit_status import DONE, PENDING, REFUSED
from handler.journal.decoding import MalformedError
from handler.journal.pending import FOLDER, LaterJournalError, events_of, load, read_pending


def show_status(options: argparse.Namespace, settings: Settings) -> int:
    """Show what the device is and what is pending. Raises OutputError."""
    from .status import lines, read_status  # noqa: PLC0415

    status = read_status(settings, _configured(settings))
    if options.json:
        from .status_json import as_json  # noqa: PLC0415

        print_line(as_json(status))
    else:
        for line in lines(status, _console().width):
            print_line(line)
    if status.identity.problem is None:
        return DONE
    return PENDING if status.identity.passing else REFUSED


def show_check(options: argparse.Namespace, settings: Settings) -> int:
    """Show each finding as soon as it is known. Raises OutputError."""
    from handler.commands.checks.finding import OK  # noqa: PLC0415
    from handler.commands.checks.system import System  # noqa: PLC0415
    from handler.device.request import Overrides  # noqa: PLC0415

    from .check import Check, exit_status, lines_of, summary  # noqa: PLC0415

    overrides = Overrides(options.est_server, None, options.pkey_ids, options.cert_ids)
    found = []
    for finding in Check(settings, _configured(settings), overrides, System()).findings():
        found.append(finding)
        if options.quiet and finding.level == OK:
            continue
        for line in lines_of(finding, _console()):
            print_line(line)
    if not options.quiet:
        print_line(summary(found))
    return exit_status({each.level for each in found})


def show_slots(_options: argparse.Namespace, settings: Settings) -> int:
    """Show the token's objects. Raises OutputError."""
    from .slots import list_slots  # noqa: PLC0415

    try:
        for line in list_slots(_configured(settings)).lines(_console().width):
            print_line(line)
    except FORESEEABLE as error:
        tell(describe(error), "problem: ")
        return REFUSED if is_final(error) else PENDING
    return DONE


def show_log(_options: argparse.Namespace, settings: Settings) -> int:
    """Show the last rotations as a timeline. Raises OutputError, RequestRefusedError."""
    from handler.journal.history import History, timeline, told_apart  # noqa: PLC0415

    storage = settings.storage_folder()
    if not storage.is_dir():
        raise RequestRefusedError(f"the storage folder {storage} is not there, or no folder: look at storage.path")
    entries = History(storage / FOLDER).read()
    for line in timeline(told_apart(entries, _undelivered(storage)), _console().width):
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


def _configured(settings: Settings) -> Configured:
    return Configured(settings.search_paths, settings.storage, settings.config_url)


def _console() -> Console:
    return Console.of(sys.stdout, os.environ)
