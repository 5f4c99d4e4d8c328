"""`rotate --dry-run`: say what a rotation would do, after every check that changes nothing."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime

from handler.console.output import print_line
from handler.crypto.names import shown
from handler.device import completed_rotations as completed
from handler.device.config_encrypted import LocalConfig
from handler.device.device import Device
from handler.device.keystore import IdentityNames
from handler.device.request import RotationRequest
from handler.device.services import AKTUALIZR, FIOCONFIG
from handler.device.storage import check_folder
from handler.errors import FORESEEABLE, PendingError, RequestRefusedError, describe, is_final
from handler.exit_status import DONE, PENDING, REFUSED
from handler.inspection.pin_safety import why_no_login
from handler.journal.journal import Journal
from handler.journal.pending import read_pending
from handler.journal.rotation_state import PROVED, Kept
from handler.journal.snapshot import Snapshot
from handler.rotation.phases.enrolment import curve_of
from handler.rotation.phases.preflight import check_before_anything_changes
from handler.servers.connections import Connections
from handler.servers.http import Limits
from handler.servers.transport import Deadline
from hsm.curves import shown_curve

from .checks.disk import disk_finding
from .checks.result import PROBLEM
from .formats.envelope import as_json

Line = tuple[str, str]
"""The beginning of a line and its text, which is folded behind that."""


def plan(device: Device, request: RotationRequest) -> Iterator[Line]:
    """Yield lines that say what `request` would do. Changes nothing, here or on a server.

    Asks no server if the gateway may not have seen the certificate in use yet: showing it is the point of no return.
    Raises what the checks of the rotation raise: RefusedError, PendingError, hsm.errors.TokenError, OSError.
    """
    check_folder(device.storage)
    pending = read_pending(device.storage)
    view = Snapshot.of(device.storage)
    going_back = view.rotation is not None and view.rotation.rollback is not None
    if pending is not None and pending.rotation_id == request.rotation_id and not going_back:
        yield "", f"rotation {request.rotation_id} is pending after step {pending.step}: this call would continue it"
        return
    if request.rotation_id in completed.rotation_ids(device.storage):
        yield "", f"nothing to do: rotation {request.rotation_id} is already complete"
        return
    if device.token is not None:
        unsafe = why_no_login(device.token, device.storage)
        if unsafe is not None:
            raise RequestRefusedError(f"token {device.token.label!r}: {unsafe}; nothing was checked")
    limits = Limits()
    connections = Connections(device, Deadline(limits.total), limits)
    device.open_store(request.key_ids, request.certificate_ids)
    try:
        names = device.names_in_use()
        finished_first = _finished_first(view, names)
        if finished_first is not None:
            yield "", f"{finished_first}. Then {request.rotation_id} would start: run this again when that is done"
            return
        if pending is not None and pending.rotation_id is not None:
            yield "", _ended_first(view, pending.rotation_id)
        local_config = LocalConfig(device.config_encrypted, Journal(device.storage).aside)
        new = check_before_anything_changes(device, local_config, connections)
        level, text = disk_finding(device.storage)
        if level == PROBLEM:
            raise PendingError(text)
        yield from _steps(device, request, names, new, view.kept)
    finally:
        connections.close()
        device.close()


def plan_json(asked: Callable[[], tuple[Device, RotationRequest]]) -> int:
    """Print the plan as JSON, or why there is none; return the exit status. Raises OutputError."""
    lines: list[Line] = []
    rotation_id = problem = None
    status = DONE
    try:
        device, request = asked()
        rotation_id = request.rotation_id
        lines += plan(device, request)
    except FORESEEABLE as error:
        problem = describe(error)
        status = REFUSED if is_final(error) else PENDING
    content = {
        "rotation_id": rotation_id,
        "would_rotate": problem is None and any(first.strip() for first, _ in lines),
        "exit_status": status,
        "problem": problem,
        "lines": [f"{first}{text}" for first, text in lines],
    }
    print_line(as_json("dry-run", content))
    return status


def _finished_first(view: Snapshot, names: IdentityNames) -> str | None:
    """Say what has to be finished first, so that the rest cannot be foreseen yet."""
    if view.left_by_fioconfig:
        return "a rotation that fioconfig left would be taken over and finished first"
    if view.problem is not None:
        return f"this would come first: {view.problem}"
    rotation = view.rotation
    if rotation is None or rotation.step >= PROVED:
        return None
    if rotation.rollback is not None:
        return f"rotation {rotation.rotation_id} would be rolled back first: {rotation.rollback}"
    if not rotation.locked and names == rotation.old:
        return None
    return (
        f"rotation {rotation.rotation_id} is pending after step {rotation.step} and would be finished first: key "
        f"{rotation.new.key} and certificate {rotation.new.certificate} are in use then"
    )


def _ended_first(view: Snapshot, rotation_id: str) -> str:
    rotation = view.rotation
    if rotation is None:
        return f"rotation {rotation_id} is requested but not started: this one would replace it"
    if rotation.step >= PROVED:
        return f"rotation {rotation_id} is in use: cleaning up after it would come first"
    return f"rotation {rotation_id} is pending after step {rotation.step}: it would be dropped first, with its new key"


def _steps(
    device: Device, request: RotationRequest, old: IdentityNames, new: IdentityNames, kept: Kept | None
) -> Iterator[Line]:
    certificate = device.store.certificate(old.certificate)
    token = device.token
    place = f"token {token.label}" if token else "files"
    server, config = device.server, device.config_url
    key, name = device.sota_keys
    if kept is not None:
        new = kept.rotation.new
    elif token is None:  # a number is drawn then
        new = IdentityNames(f"{device.storage}/pkey.NUMBER.pem", f"{device.storage}/client.NUMBER.pem")
    yield "", f"Nothing was changed. Rotation {request.rotation_id} would do this:"
    if certificate.has_ended(datetime.now(UTC)):
        ended = f"the certificate in use ended {certificate.shown_end}"
        yield "warning: ", f"{ended}: servers usually refuse it; if so, register the device again"
    make = f"make a {shown_curve(curve_of(certificate))} key as {new.key} ({place}; leftovers there are replaced)"
    yield "  [1/5] ", f"use key {new.key} again, kept from rotation {kept.rotation.rotation_id}" if kept else make
    if request.csrattrs:
        yield "        ", f"GET {request.est_server}/csrattrs: what the CSR has to contain"
    yield "        ", f"POST {request.est_server}/simplereenroll as {shown(certificate.subject)},"
    yield "        ", f"authenticated by certificate {old.certificate}"
    yield "        ", f"store the issued certificate as {new.certificate}"
    yield "        ", f"GET {request.est_server}/cacerts with the new certificate, as a trial"
    yield "  [2/5] ", f"GET {config}-device: check that the key in use reads the device's own files"
    yield "        ", f"PATCH {server}/device: the next public key"
    yield "  [3/5] ", f"encrypt {device.config_encrypted} to the new key"
    yield "  [4/5] ", f"GET {config}-device, PATCH {config}: the device's own files, encrypted to the new key"
    yield "  [5/5] ", f"in {device.sota.check_writable((key, name))}:"
    yield "        ", f"{key}: {old.key} -> {new.key}"
    yield "        ", f"{name}: {old.certificate} -> {new.certificate}"
    yield "        ", f"POST {server}/events after each step, with the old certificate"
    yield "        ", f"POST {server}/events with the new certificate, which the device gateway sees for the first time"
    yield "        ", f"restart {AKTUALIZR} if it runs, and {FIOCONFIG}"
