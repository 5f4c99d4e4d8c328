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
import contextlib
import logging
import os
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from handler.console.arguments import Settings, make_parser
from handler.console.output import OutputError, flush, say, set_up, set_up_messages, silence, tell
from handler.console.signals import end_in_order
from handler.console.terminal import Console
from handler.journal.pending import FOLDER, JOURNAL, read_pending

from .errors import FORESEEABLE, BusyError, PendingError, RenewalError, RequestRefusedError, describe, is_final
from .exit_status import DONE, PENDING, REFUSED, SWITCHED, UNREAD, USAGE

if TYPE_CHECKING:
    from handler.device.device import Device
    from handler.device.request import RotationRequest
    from handler.journal.pending import Pending
    from handler.rotation.rotator import Rotator

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
    shows = options.command in OTHERS or getattr(options, "dry_run", False)
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
        settings = Settings.of(options, os.environ)
        if options.command in OTHERS:
            return OTHERS[options.command](options, settings)
        end_in_order()
        return _run(options, settings)
    except FORESEEABLE as error:
        return _explain(error, "" if shows else _what_next(settings))
    except KeyboardInterrupt:
        say("interrupted" + ("" if shows else _what_next(settings)))
        return PENDING


def _wait_and_finish(options: argparse.Namespace, settings: Settings) -> int:
    """Be the daemon, which loads next to nothing: its child, this program anew, does the work."""
    from handler.daemon.daemon import Daemon  # noqa: PLC0415
    from handler.daemon.notify import Notifier  # noqa: PLC0415

    from .backoff import Backoff  # noqa: PLC0415

    backoff = Backoff(options.first_delay, max(options.first_delay, options.longest_delay))
    storage = settings.storage_folder()
    this_program = [sys.executable, *sys.orig_argv[1 : len(sys.orig_argv) - len(sys.argv) + 1]]
    places = [f"--storage-dir={storage}", *([f"--sota={options.sota}"] if options.sota else [])]
    Daemon(storage, [*this_program, "resume", "--unattended", *places], Notifier(), backoff).run()
    return DONE


def _inspect(options: argparse.Namespace, settings: Settings) -> int:
    from handler.commands import inspection  # noqa: PLC0415

    shows = {
        "status": inspection.show_status,
        "check": inspection.show_check,
        "slots": inspection.show_slots,
        "log": inspection.show_log,
    }
    return shows[options.command](options, settings)


OTHERS = {"daemon": _wait_and_finish, **dict.fromkeys(("status", "check", "slots", "log"), _inspect)}
"""Commands that neither take the lock nor change anything themselves."""


def _run(options: argparse.Namespace, settings: Settings) -> int:
    """Be the handler, rotate, resume or abort: find out what is asked for, and do it."""
    # Loaded only now, so that --help and a wrong option answer at once.
    from handler.device.device import Device  # noqa: PLC0415
    from handler.journal.journal import Journal  # noqa: PLC0415

    device = Device(settings.search_paths, settings.storage, settings.config_url, token_wait=settings.token_wait)
    request = None
    if options.command is None:
        if settings.request_file.exists():
            request = _request(options, settings, device)
        elif not Journal(device.storage).exists():
            tell(f"nothing to do: {settings.request_file} is not there, no rotation is asked for")
            return DONE
    elif options.command == "rotate":
        return _rotate(options, settings, device)
    return _change(options, settings, device, request)


def _rotate(options: argparse.Namespace, settings: Settings, device: "Device") -> int:
    """Rotate by hand or by the timer, or say what that would do."""
    request = _request(options, settings, device)  # what is wrong with it is said long before it is due
    if options.if_due:
        pending = read_pending(device.storage)
        if pending and pending.rotation_id:
            if pending.refused is None:
                tell(f"nothing to do: rotation {pending.rotation_id} is pending already")
                return DONE
            if options.dry_run:
                tell(f"rotation {pending.rotation_id} was refused, and would be tried again: {pending.refused}")
                return DONE
            return _change(options, settings, device, None)  # nobody else would look at it: it is resumed
        if not _is_due(settings, options.if_due):
            return DONE
    if options.dry_run:
        from handler.commands.dry_run import plan  # noqa: PLC0415

        for first, text in plan(device, request):
            tell(text, first)
        return DONE
    return _change(options, settings, device, request)


def _change(
    options: argparse.Namespace, settings: Settings, device: "Device", request: "RotationRequest | None"
) -> int:
    """Do what may change something, under the device's lock; say how it ended, and give the exit status."""
    from handler.console.progress import make_progress  # noqa: PLC0415
    from handler.device.storage import DeviceLock, remove_leftovers  # noqa: PLC0415
    from handler.journal.journal import Journal  # noqa: PLC0415
    from handler.rotation.rotator import Rotator  # noqa: PLC0415
    from handler.servers.http import Limits  # noqa: PLC0415

    by_fioconfig = options.command is None
    limits = Limits()
    with DeviceLock(device.storage).acquire(limits.lock_wait):
        for folder in (*device.folders, Journal(device.storage).folder):
            remove_leftovers(folder)
        progress = make_progress(sys.stdout, Console.of(sys.stdout, os.environ).width)
        rotator = Rotator(device, progress, called_by_fioconfig=by_fioconfig, limits=limits)
        before = read_pending(device.storage)
        try:
            if said := _work(rotator, options, settings, request):
                tell(said)
            status = DONE
        except FORESEEABLE as error:
            status = _explain(error, _what_next(settings))
        except KeyboardInterrupt:  # here, because fioconfig has to be told even then that the key was switched
            say("interrupted" + _what_next(settings))
            status = PENDING
        finally:
            rotator.close()
        if status == DONE and not (by_fioconfig or (options.command == "resume" and options.offline)):
            status = _undelivered(device.storage, before)
        return SWITCHED if by_fioconfig and rotator.switched else status


def _undelivered(storage: Path, before: "Pending | None") -> int:
    """Say what became of events that were all that was pending (`before`); give the exit status for what is left.

    What is left though everything else is done is warned of.
    """
    left = read_pending(storage)
    if left is not None and left.rotation_id is None and left.undelivered:
        why = f": {left.waiting.reason}" if left.waiting else ""
        log.warning("not delivered yet: %s%s%s", _events(left.undelivered), why, GOES_ON)
        return PENDING
    if left is None and before is not None and before.rotation_id is None and before.undelivered:
        tell(f"delivered: {_events(before.undelivered)}")
    return DONE


def _events(count: int) -> str:
    return "1 event" if count == 1 else f"{count} events"


def _work(
    rotator: "Rotator", options: argparse.Namespace, settings: Settings, request: "RotationRequest | None"
) -> str:
    """Do what is asked; give what to say beside the progress. Raises RenewalError, TokenError, OSError."""
    nothing, done = "nothing to do: no rotation is pending", True
    if request is not None:
        done = rotator.rotate(request)
        nothing = f"nothing to do: rotation {request.rotation_id} is complete already"
    elif options.command is None:
        rotator.withdraw()
    elif options.command == "abort":
        asks = f"; {settings.request_file} still asks for a rotation: remove it, or fioconfig has it begun again"
        if done := rotator.abort():
            return "given up; the identity in use is the one from before" + asks * settings.request_file.exists()
    elif options.command == "resume" and options.offline:
        return "made whole" if rotator.resume_offline() else "nothing to do without a network"
    else:
        done = rotator.resume(unattended=options.command == "resume" and options.unattended)
        pending = None if done else read_pending(settings.storage_folder())
        if pending is not None and pending.refused is not None:
            nothing = f"nothing to do: rotation {pending.rotation_id} was refused, `resume` by hand tries again"
    return "" if done else nothing


def _is_due(settings: Settings, share: float) -> bool:
    """Tell whether less than that share of the current certificate's life is left. The PIN is not put at risk for it.

    Raises RequestRefusedError, PendingError.
    """
    from handler.device.configuration.values import Configured  # noqa: PLC0415
    from handler.inspection.identity import read_identity  # noqa: PLC0415
    from handler.rotation.preflight import CLOCK_TOLERANCE  # noqa: PLC0415

    identity = read_identity(Configured(settings.search_paths, settings.storage, settings.config_url))
    certificate = identity.certificate
    if certificate is None:
        raise (PendingError if identity.passing else RequestRefusedError)(identity.problem or "there is no certificate")
    now, begin, end = datetime.now(UTC), certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now < begin - CLOCK_TOLERANCE:
        raise PendingError(f"the clock shows {now:%Y-%m-%d %H:%M} UTC, before the certificate begins: set it")
    left = (end - now) / max(end - begin, timedelta(seconds=1))
    if left < share:
        return True
    tell(f"nothing to do: {left:.0%} of the certificate's life is left (until {end:%Y-%m-%d %H:%M} UTC)")
    return False


def _request(options: argparse.Namespace, settings: Settings, device: "Device") -> "RotationRequest":
    from handler.device.request import Overrides, read_request, with_usual_ids  # noqa: PLC0415
    from handler.journal.journal import PROVED  # noqa: PLC0415

    by_hand = options.command == "rotate"
    overrides = Overrides()
    # The time alone is the same after each boot in 1970, and for two calls within a second.
    new_id = f"certs-{int(time.time())}-{os.urandom(3).hex()}"
    if by_hand and not options.if_due:
        pending = read_pending(device.storage)
        if pending and pending.rotation_id and pending.step < PROVED:  # the same again goes on with it
            new_id = pending.rotation_id
    if by_hand:
        # The id of the request file is that of a rotation that the operators asked for: done, or pending.
        rotation_id = options.rotation_id or (new_id if options.if_due else None)
        overrides = Overrides(options.est_server, rotation_id, options.pkey_ids, options.cert_ids)
        if options.est_server and device.config.token is not None and not settings.request_file.exists():
            overrides = with_usual_ids(overrides)
    if settings.request_named and not settings.request_file.exists():
        raise RequestRefusedError(f"--config-file {settings.request_file}: expected a request file, there is none")
    request = read_request(
        settings.request_file,
        overrides,
        token=device.config.token is not None,
        default_rotation_id=new_id if by_hand else None,
    )
    if request is None:
        raise RequestRefusedError(
            f"nothing says where to enrol: expected the request file {settings.request_file}, or the option "
            "--est-server; give one of them"
        )
    return request


def _explain(error: Exception, next_step: str) -> int:
    """Say what ended the call and what goes on from here (`_what_next`), and give the status for it."""
    pending = next_step == GOES_ON
    # Somebody has to act where a file may not be used, unless a rotation is under way, which is tried again.
    if is_final(error) or (isinstance(error, PermissionError) and not pending):
        say(f"refused: {describe(error)}")
        return REFUSED
    if isinstance(error, BusyError):
        next_step = ""  # it says so itself
    say(f"{'pending' if pending else 'not now'}: {describe(error)}{next_step}")
    return PENDING


GOES_ON, NOT_BEGUN = "; `renew-client-cert resume` goes on", "; nothing was begun: call it again"


def _what_next(settings: Settings | None) -> str:
    """Say what goes on after a call that could not end: by what is in the journal now, not by how far it came."""
    with contextlib.suppress(RenewalError, OSError):
        if settings is not None and (settings.storage_folder() / FOLDER / JOURNAL).exists():
            return GOES_ON
    return NOT_BEGUN
