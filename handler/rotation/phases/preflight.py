"""Everything that can be refused before anything changes, on the device or on a server."""

import contextlib
import logging
import os
from datetime import UTC, datetime, timedelta

from handler.crypto.encrypted_values import has_encrypted_values
from handler.device.config_encrypted import LocalConfig
from handler.device.device import Device
from handler.device.keystore import REGISTER, IdentityNames, refusal_by_openssl
from handler.device.storage import check_durable, exposure
from handler.errors import PendingError, RequestRefusedError, describe, kind_of_refusal, refusals
from handler.journal.events import STARTED
from handler.journal.pending import COMPLETED
from handler.rotation.context import Context
from handler.servers.connections import Connections
from hsm.errors import UnsupportedError

from .enrolment import curve_of

log = logging.getLogger(__name__)

CLOCK_TOLERANCE = timedelta(minutes=5)


def check_before_anything_changes(device: Device, local_config: LocalConfig, connections: Connections) -> IdentityNames:
    """Check the device, its configuration and its key store; return the names for the new identity.

    Raises RefusedError, PendingError (the clock is not set), hsm.errors.TokenError.
    """
    names = device.names_in_use()
    with refusals("storage"):
        check_storage(device)
        target = device.sota.check_writable(device.sota_keys)
        for folder in {device.storage, target.resolve().parent}:
            check_durable(folder)
        local_config.check_replaceable()
    with refusals("identity"):
        key, certificate = device.identity(names)
        curve_of(certificate)
        if problem := refusal_by_openssl(certificate):
            raise RequestRefusedError(f"certificate {names.certificate} cannot be used: {problem}; {REGISTER}")
    now = datetime.now(UTC)
    if certificate.begins_after(now + CLOCK_TOLERANCE):
        raise PendingError(
            f"the clock shows {now:%Y-%m-%d %H:%M} UTC, but the current certificate is valid from "
            f"{certificate.shown_begin}: set the clock, or wait for network time",
            certificate.begin,
        )
    with refusals("slots"):
        new = device.store.unused(names)
    with refusals("values"):
        with contextlib.suppress(UnsupportedError):  # decrypting a value shows that it can derive
            local_config.check_readable(key)
        if not device.store.can_derive(names.key) and (
            local_config.has_encrypted_values() or has_encrypted_values(connections.gateway(names).device_config())
        ):
            raise RequestRefusedError(
                "this token cannot derive keys (ECDH, CKM_ECDH1_DERIVE), and this device's configuration holds "
                "encrypted values: use a token that can, or remove the encrypted values; nothing was changed"
            )
    for odd in (*device.sota.problems, *device.sota.odd, *exposure(device.storage)):
        log.warning("%s", odd)
    return new


def report_refusal(context: Context) -> None:
    """Journal the events of a refused request. Raises RefusedError, OSError if the storage folder cannot be used."""
    assert context.memory.refused is not None  # noqa: S101 - the rules make sure of it
    rotation_id, error = context.memory.refused
    check_storage(context.device)
    if os.geteuid():  # the journal would belong to a user who cannot rotate, and root would refuse it
        context.device.sota.check_writable(context.device.sota_keys)
    factory, reason = context.events(rotation_id), describe(error)
    events = [factory.make(name, failure=reason) for name in (STARTED, COMPLETED)]
    context.journal.record(context.journal.facts.rotation, *events, kind=kind_of_refusal(error))


def check_storage(device: Device) -> None:
    """Raise RequestRefusedError for a storage folder that others may write to; OSError. The lock checks the rest."""
    if intrusions := exposure(device.storage, group=False):
        raise RequestRefusedError(f"{intrusions[0]}; refusing to make a key where other users can put files")
