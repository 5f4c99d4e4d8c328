"""`daemon`: finish what is pending, then exit (for systemd)."""

import argparse
import contextlib
import sys
from functools import partial
from pathlib import Path

from handler.backoff import Backoff
from handler.console.journald import JOURNALD
from handler.console.settings import Settings
from handler.daemon.daemon import Daemon
from handler.daemon.notify import Notifier
from handler.errors import RenewalError
from handler.exit_status import DONE
from handler.journal.pending import read_pending


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Run the daemon, which imports little: a child process of this program does the work."""
    backoff = Backoff(options.first_delay, max(options.first_delay, options.longest_delay))
    storage = settings.storage_folder()
    JOURNALD.rotation_id = partial(_rotation_id, storage)
    this_program = [sys.executable, *sys.orig_argv[1 : len(sys.orig_argv) - len(sys.argv) + 1]]
    places = [f"--storage-dir={storage}", *([f"--sota={options.sota}"] if options.sota else [])]
    Daemon(storage, [*this_program, "resume", "--unattended", *places], Notifier(), backoff).run()
    return DONE


def _rotation_id(storage: Path) -> str | None:
    with contextlib.suppress(RenewalError, OSError):
        if pending := read_pending(storage):
            return pending.rotation_id
    return None
