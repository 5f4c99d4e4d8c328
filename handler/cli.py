"""The command line: run one command, return its exit status (exit_status.py)."""

import argparse
import gc
import importlib
import logging
import os
import sys
from collections.abc import Sequence

from handler.commands.outcome import status_of
from handler.console.arguments import parse
from handler.console.output import OutputError, drop_unwritable, flush, say, set_up, set_up_messages, silence
from handler.console.process import end_in_order, keep_memory_private
from handler.console.settings import Settings

from . import __version__
from .exit_status import DONE, UNREAD, USAGE

OF_FIOCONFIG = ("FIOCONFIG_BIN", "CONFIG_FILE")
"""Variables that fioconfig sets for a handler, and a person's shell does not."""

log = logging.getLogger("renew-client-cert")


LOOKS = frozenset({"status", "check", "slots", "log", "daemon"})
"""Commands that take no lock and change nothing themselves."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit status."""
    set_up()
    try:
        return _status(arguments)
    finally:
        drop_unwritable(sys.stderr)


def _status(arguments: Sequence[str] | None) -> int:
    try:
        options = parse(arguments, by_fioconfig=any(map(os.environ.get, OF_FIOCONFIG)))
    except SystemExit as stop:  # argparse has said why
        return stop.code if isinstance(stop.code, int) else USAGE
    level = logging.INFO if options.command == "daemon" else logging.WARNING
    set_up_messages(logging.DEBUG if options.verbose else level, waits=not (options.quiet or options.verbose))
    shows = options.command in LOOKS or getattr(options, "dry_run", False)
    if options.quiet and not shows:
        silence()
    settings, status = Settings.of(options, os.environ), DONE
    try:
        status = status_of(lambda: _run(options, settings), None if shows else settings)
        flush()
    except OutputError as error:
        drop_unwritable(sys.stdout)
        if shows:  # a rotation does not depend on a reader
            status = error.status
            if status != UNREAD:
                say(str(error))
    return status


def _run(options: argparse.Namespace, settings: Settings) -> int:
    """Run the command; return the exit status. Raises RenewalError, TokenError, OSError, OutputError."""
    keep_memory_private()
    log.debug("renew-client-cert %s, Python %s", __version__, sys.version.split()[0])
    log.debug("configuration: %s; request: %s", ", ".join(map(str, settings.search_paths)), settings.request_file)
    if options.command not in LOOKS:
        end_in_order()
    # Only the command's module is imported, so that --help answers at once.
    gc.disable()  # nothing that is imported becomes garbage: do not look for any there, now or at exit
    command = importlib.import_module(f"handler.commands.{options.command or 'rotate'}")
    gc.freeze()
    gc.enable()
    status: int = command.run(options, settings)
    return status
