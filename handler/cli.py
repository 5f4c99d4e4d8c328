"""The command line: what is called for, done, and ended with which exit status.

| status | meaning |
| --- | --- |
| 0 | done, or nothing to do |
| 1 | a bug |
| 64 | wrong usage |
| 75 | pending: it will be resumed |
| 78 | refused: the request, the configuration or a server's answer has to be changed first |
| 123 | called by fioconfig, and this call switched the key: fioconfig must exit and start anew |
| 141 | whoever read the output of a command that shows something has gone |
"""

import argparse
import importlib
import logging
import os
import sys
from collections.abc import Sequence

from handler.commands.outcome import explain, what_next
from handler.console.arguments import make_parser
from handler.console.output import OutputError, flush, say, set_up, set_up_messages, silence
from handler.console.secrecy import keep_memory_private
from handler.console.settings import Settings
from handler.console.signals import end_in_order

from .errors import FORESEEABLE
from .exit_status import DONE, PENDING, UNREAD, USAGE

OF_FIOCONFIG = ("FIOCONFIG_BIN", "CONFIG_FILE")
"""What fioconfig has in the environment of a handler; a person who types the program's name alone has neither."""

log = logging.getLogger("renew-client-cert")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and give its exit status."""
    set_up(os.environ)
    parser = make_parser()
    try:
        options = parser.parse_args(arguments)
    except SystemExit as stop:  # argparse has said why
        return stop.code if isinstance(stop.code, int) else USAGE
    if options.command is None and not any(map(os.environ.get, OF_FIOCONFIG)):
        parser.print_usage(sys.stderr)
        say("a command is missing: `renew-client-cert rotate` rotates by hand; --help names the others")
        return USAGE
    level = logging.INFO if options.command == "daemon" else logging.WARNING
    set_up_messages(logging.DEBUG if options.verbose else level, waits=not (options.quiet or options.verbose))
    shows = options.command in LOOKS or getattr(options, "dry_run", False)
    if options.quiet and not shows:
        silence()
    status = DONE
    try:
        status = _called(options, shows=shows)
        flush()
    except OutputError as error:
        # What waits would be tried again by the interpreter when it ends, with words and a status of its own.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if shows:  # a rotation is what it is, whether anybody reads of it or not
            status = error.status
            if status != UNREAD:
                say(str(error))
    return status


def _called(options: argparse.Namespace, *, shows: bool) -> int:
    """Do what is asked; say how it ended, and give the exit status. Raises OutputError."""
    settings = None
    try:
        keep_memory_private()
        settings = Settings.of(options, os.environ)
        if options.command not in LOOKS:
            end_in_order()
        return _run(options, settings)
    except FORESEEABLE as error:
        return explain(error, "" if shows else what_next(settings))
    except KeyboardInterrupt:
        say("interrupted" + ("" if shows else what_next(settings)))
        return PENDING


def _run(options: argparse.Namespace, settings: Settings) -> int:
    """Load the module of the command, and no other, so that --help answers at once; run it."""
    command = importlib.import_module(f"handler.commands.{options.command or 'rotate'}")
    status: int = command.run(options, settings)
    return status


LOOKS = frozenset({"status", "check", "slots", "log", "daemon"})
"""Commands that neither take the lock nor change anything themselves."""
