"""What a rotation would do, in words, after every check that changes nothing (`rotate --dry-run`)."""

from collections.abc import Iterator

from . import completed
from .connections import Connections
from .device import Device
from .http import Deadline, Limits
from .keystore import IdentityNames
from .local_config import LocalConfig
from .pending import read_pending
from .preflight import check_before_anything_changes
from .request import RotationRequest
from .services import AKTUALIZR, FIOCONFIG
from .state import Journal
from .steps import curve_of


def plan(device: Device, request: RotationRequest, limits: Limits) -> Iterator[str]:
    """Give the lines that say what `request` would do. Changes nothing, here or on a server.

    Raises what the rotation itself would before it changes anything: RefusedError, PendingError,
    hsm.errors.TokenError, OSError.
    """
    pending = read_pending(device.storage)
    if pending and pending.rotation_id == request.rotation_id:
        yield f"rotation {request.rotation_id} is pending after step {pending.step}: it would go on from there"
        return
    if completed.rotation_id(device.storage) == request.rotation_id:
        yield f"nothing to do: rotation {request.rotation_id} is complete already"
        return
    if pending and pending.problem:
        yield f"the journal is broken and would be set aside first: {pending.problem}"
    if pending and pending.rotation_id:
        yield f"rotation {pending.rotation_id} is pending: it would be finished (past step 2) or dropped first"
    connections = Connections(device, Deadline(limits.total), limits)
    device.open_store(request.key_ids, request.certificate_ids)
    try:
        journal = Journal(device.storage)
        local_config = LocalConfig(device.config_encrypted, journal.aside)
        new = check_before_anything_changes(device, local_config, connections)
        yield from _steps(device, request, device.names_in_use(), new)
    finally:
        connections.close()
        device.close()


def _steps(device: Device, request: RotationRequest, old: IdentityNames, new: IdentityNames) -> Iterator[str]:
    certificate = device.store.certificate(old.certificate)
    token = device.config.token
    place = f"token {token.label}" if token else "files"
    server, config = device.config.server, device.config.config_url
    key, name = device.store.sota_keys
    yield f"Nothing was changed. Rotation {request.rotation_id} would do this:"
    yield f"  [1/5] make a {curve_of(certificate).name} key as {new.key} ({place}; what a rotation left there goes)"
    yield f"        POST {request.est_server}/simplereenroll as {certificate.subject.rfc4514_string()},"
    yield f"        authenticated by certificate {old.certificate}"
    yield f"        store the issued certificate as {new.certificate}"
    yield f"        GET {request.est_server}/cacerts with the new certificate, as a trial"
    yield f"  [2/5] PATCH {server}/device: the next public key"
    yield f"  [3/5] encrypt {device.config_encrypted} to the new key"
    yield f"  [4/5] GET {config}-device, PATCH {config}: the device's own files, encrypted to the new key"
    yield f"  [5/5] in {device.sota.check_writable((key, name))}:"
    yield f"        {key}: {old.key} -> {new.key}"
    yield f"        {name}: {old.certificate} -> {new.certificate}"
    yield f"        POST {server}/events with the new certificate: the gateway's first sight of it"
    yield f"        restart {AKTUALIZR} if it runs, and {FIOCONFIG}"
