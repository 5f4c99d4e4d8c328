"""`rotate`, by hand or by the timer, and the handler that fioconfig calls without a command."""

import argparse
import contextlib
import logging
import os
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from handler.console.output import OutputError, tell
from handler.console.settings import Settings
from handler.device import completed_rotations
from handler.device.configuration.configuration import Configuration
from handler.device.device import Device
from handler.device.request import Overrides, RotationRequest, read_request, readable_rotation_id, with_usual_ids
from handler.errors import FORESEEABLE, PendingError, RequestRefusedError, describe
from handler.exit_status import DONE
from handler.journal.pending import is_there, read_pending
from handler.journal.rotation_state import ANNOUNCED, PROVED
from handler.journal.snapshot import Snapshot
from handler.rotation.found import Wish
from handler.rotation.phases.preflight import CLOCK_TOLERANCE
from handler.rotation.rotator import Rotator

from . import resume
from .change import change

log = logging.getLogger(__name__)


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Rotate, or show what a rotation would do; return the exit status. Raises RenewalError, OSError, OutputError."""
    if options.command == "rotate" and options.json:
        from .dry_run import plan_json  # noqa: PLC0415 - few calls need it

        return plan_json(lambda: _planned(options, settings))
    device = Device(settings.search_paths, settings.storage, settings.config_url, token_wait=settings.token_wait)
    if options.command is None:
        return _handle(options, settings, device)
    try:
        request = _request(options, settings, device)  # report a wrong request long before a rotation is due
    except RequestRefusedError as error:
        if options.dry_run or options.if_due:
            raise
        return _refuse(settings, device, Overrides(rotation_id=options.rotation_id), error)
    if options.if_due and (status := _unless_due(options, settings, device)) is not None:
        return status
    if options.dry_run:
        from .dry_run import plan  # noqa: PLC0415 - few calls need it

        for first, text in plan(device, request):
            tell(text, first)
        return DONE
    return change(device, settings, lambda rotator: _rotate(rotator, request, device.storage))


def _planned(options: argparse.Namespace, settings: Settings) -> tuple[Device, RotationRequest]:
    device = Device(settings.search_paths, settings.storage, settings.config_url, token_wait=settings.token_wait)
    return device, _request(options, settings, device)


def _unless_due(options: argparse.Namespace, settings: Settings, device: Device) -> int | None:
    """Return the exit status if the timer has nothing to start: not due yet, or a rotation is pending."""
    pending = read_pending(device.storage)
    if pending is None or not pending.rotation_id or pending.step == ANNOUNCED:  # only cleaning up is left
        return None if _is_due(settings, options.if_due) else DONE
    if pending.refused is None:
        tell(f"nothing to do: rotation {pending.rotation_id} is already pending")
    elif options.dry_run:
        tell(f"rotation {pending.rotation_id} was refused and would be retried: {pending.refused}")
    else:  # nothing else retries it
        return resume.run(argparse.Namespace(**vars(options), offline=False, unattended=False), settings)
    return DONE


def _handle(options: argparse.Namespace, settings: Settings, device: Device) -> int:
    """Act as the handler: follow the request file, or its removal."""
    if settings.request_file.exists():
        try:
            request = _request(options, settings, device)
        except RequestRefusedError as error:
            return _refuse(settings, device, Overrides(), error, by_fioconfig=True)
        return change(device, settings, lambda rotator: _rotate(rotator, request, device.storage), by_fioconfig=True)
    if not is_there(device.storage):
        tell(f"nothing to do: {settings.request_file} does not exist, so no rotation is requested")
        return DONE
    return change(device, settings, _withdraw, by_fioconfig=True)


def _refuse(
    settings: Settings,
    device: Device,
    overrides: Overrides,
    error: RequestRefusedError,
    *,
    by_fioconfig: bool = False,
) -> int:
    """Report that the request is refused, if its ROTATIONID can be read; give the exit status, or raise `error`."""
    rotation_id = readable_rotation_id(settings.request_file, overrides)
    if rotation_id is None:
        raise error
    try:
        return change(device, settings, lambda rotator: rotator.refuse(rotation_id, error), by_fioconfig=by_fioconfig)
    except FORESEEABLE as unreported:
        log.info("the refusal is not reported: %s", describe(unreported))
    raise error


def _rotate(rotator: Rotator, request: RotationRequest, storage: Path) -> str:
    other = Snapshot.of(storage).rotation
    if other is not None and other.rotation_id != request.rotation_id and other.step < PROVED:
        fate = "is finished or rolled back before" if other.locked else "is dropped with its new key for"
        with contextlib.suppress(OutputError):  # it goes on without a reader
            tell(
                f"rotation {other.rotation_id}, pending after step {other.step}, {fate} rotation {request.rotation_id}"
            )
    done = rotator.run(Wish.ROTATE, request)
    return "" if done else f"nothing to do: rotation {request.rotation_id} is already complete"


def _withdraw(rotator: Rotator) -> str:
    rotator.run(Wish.WITHDRAWN)
    return ""


def _is_due(settings: Settings, share: float) -> bool:
    """Tell whether less than `share` of the certificate's lifetime is left, without risking a PIN attempt.

    Raises RequestRefusedError, PendingError.
    """
    from handler.inspection.identity import read_identity  # noqa: PLC0415 - few calls need it

    identity = read_identity(Configuration(settings.search_paths, settings.storage, settings.config_url))
    certificate = identity.certificate
    if certificate is None:
        raise (PendingError if identity.passing else RequestRefusedError)(identity.problem or "there is no certificate")
    now, begin, end = datetime.now(UTC), certificate.begin, certificate.end
    if certificate.begins_after(now + CLOCK_TOLERANCE):
        raise PendingError(f"the clock shows {now:%Y-%m-%d %H:%M} UTC, before the certificate is valid: set the clock")
    if begin is None or end is None:
        with contextlib.suppress(OutputError):
            tell("the certificate's end of validity is unreadable: rotating")
        return True
    left = (end - now) / max(end - begin, timedelta(seconds=1))
    if left < share:
        return True
    tell(f"nothing to do: {left:.0%} of the certificate's lifetime is left (until {end:%Y-%m-%d %H:%M} UTC)")
    return False


def _request(options: argparse.Namespace, settings: Settings, device: Device) -> RotationRequest:
    file, token = settings.request_file, device.token is not None
    overrides, new_id = Overrides(), None
    if options.command == "rotate":
        # The time alone repeats: after each boot in 1970, and within a second.
        new_id = f"certs-{int(time.time())}-{os.urandom(3).hex()}"
        pending = None if options.if_due else read_pending(device.storage)
        if pending and pending.rotation_id and pending.step < PROVED:  # the same request continues it
            new_id = pending.rotation_id
        # The ROTATIONID of the request file belongs to the rotation that the operators requested.
        rotation_id = options.rotation_id or (new_id if options.if_due else None)
        overrides = Overrides(options.est_server, rotation_id, options.pkey_ids, options.cert_ids)
        if options.est_server and token and not file.exists():
            overrides = with_usual_ids(overrides)
    if settings.request_named and not file.exists():
        raise RequestRefusedError(f"--config-file {file}: expected a request file, there is none")
    request = read_request(file, overrides, token=token, default_rotation_id=new_id)
    differs = overrides != Overrides() and options.rotation_id is None
    if new_id and differs and request and request.rotation_id in completed_rotations.rotation_ids(device.storage):
        request = replace(request, rotation_id=new_id)  # that of the file is complete
    if request is None:
        raise RequestRefusedError(f"no EST server is known: create the request file {file} or use --est-server URL")
    return request
