"""How an unfinished rotation ends: it rolls back, is dropped, or is given up."""

import logging
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

from handler.device.keystore import IdentityNames
from handler.errors import RefusedError, ServerRefusedError
from handler.journal.history import ROLLED_BACK
from handler.journal.pending import COMPLETED, LOCKED
from handler.journal.rotation_state import SWITCHED, Kept, RotationState
from handler.rotation.context import Context
from handler.rotation.look import is_shown
from handler.servers.gateway import CERTIFICATE_REFUSALS
from hsm.errors import UnsupportedError

from .completion import move_files
from .steps import settle_back
from .takeover import NOWHERE

log = logging.getLogger(__name__)


def why_no_way_back(context: Context) -> str | None:
    """Say why the old identity can no longer be used; None if it can. Raises ServerRefusedError, PendingError."""
    state = context.rotation
    if state.old == NOWHERE:
        return "fioconfig itself had switched to the new certificate, and the old one is unknown"
    try:
        context.connections.gateway(state.old).device_config()
    except ServerRefusedError as error:
        if error.status in CERTIFICATE_REFUSALS:
            return f"the device gateway refuses the old certificate: {error}"
        raise
    return None


def go_back(context: Context) -> None:
    """Return to the old identity: sota.toml, config.encrypted, the files on the server. Idempotent.

    Raises RefusedError, PendingError, hsm.errors.TokenError, OSError.
    """
    state = context.rotation
    if state.step >= LOCKED:  # otherwise nothing but the gateway knows of the new key
        state = context.fioconfig.hold(state)
        # A cut that came inside of the switch: its users may have loaded the new identity, and are told (again).
        step = SWITCHED if context.device.names_in_use(state.new) == state.new else state.step
        state = replace(state, files_left=state.files_left or "a roll-back was begun", step=max(state.step, step))
        if state != context.rotation:
            context.journal.record(state)
    undone = context.device.switch(state.old)
    if state.step >= LOCKED:
        undone |= settle_back(context, state)
        move_files(context, state.new, state.old, via=state.old)
    context.settled = False
    if undone or state.step >= SWITCHED:
        context.services.restart_aktualizr()
    log.warning(
        "until a rotation succeeds, the device gateway may reject configuration changes for this device; "
        "fix the cause and rotate again"
    )


def keep(context: Context, reason: str) -> None:
    """End a rotation whose new identity is not in use, and keep that: a replica of the gateway may have accepted it.

    If this rotation reused the kept key and got no certificate, the earlier one stays. Raises OSError.
    """
    state, before = context.rotation, context.journal.facts.kept
    now = datetime.now(UTC).isoformat(timespec="seconds")
    if state.certificate is None and before is not None:
        state = before.rotation
    context.fioconfig.release()
    context.local_config.forget()
    event = context.events(context.rotation.rotation_id).make(COMPLETED, failure=reason)
    keep = Kept(replace(state, chain=(), fioconfig_stopped=False), now)
    context.journal.record(None, event, keep=keep, kind=_kind(context.rotation))
    log.info("rotation ended, keeping its key: %s", reason)


def drop(context: Context, reason: str) -> None:
    """End a rotation whose new identity is not in use: destroy it, journal the end.

    Raises RefusedError, hsm.errors.TokenError, OSError.
    """
    context.device.discard(context.rotation.new)
    _end(context, reason)
    log.info("rotation ended: %s", reason)


def give_up(context: Context, names: IdentityNames) -> str:
    """End a rotation because another program changed the identity in use to `names`; return the reason.

    What only the new key can read is encrypted to the key in use first; if the gateway refuses that, or the certificate
    in use, the new key stays (lost_journal.py). Raises RefusedError and hsm.errors.TokenError if the identity in use is
    unusable (then nothing is changed), PendingError.
    """
    state, device = context.rotation, context.device
    device.open_store()
    device.identity(names)
    reason = (
        f"the configuration names {names.key} and {names.certificate}, neither the old identity of rotation "
        f"{state.rotation_id} nor the new one: it was changed during the rotation, which is now given up"
    )
    try:
        if state.step >= LOCKED or is_shown(context):
            _hand_over(context, names)
        device.discard(state.new)
    except ServerRefusedError as error:
        log.warning("keeping key %s, because files on the server may be encrypted to it: %s", state.new.key, error)
        context.journal.leave(state)
    except (RefusedError, UnsupportedError) as error:  # a part of it is in use, or the store has changed
        log.info("%s", error)
    _end(context, reason)
    return reason


def _end(context: Context, reason: str) -> None:
    context.fioconfig.release()
    context.local_config.forget()
    event = context.events(context.rotation.rotation_id).make(COMPLETED, failure=reason)
    kept = context.journal.facts.kept
    gone = kept is not None and kept.rotation.new == context.rotation.new
    keep, kind = None if gone else kept, _kind(context.rotation)
    context.journal.record(None, event, keep=keep, kind=kind)


def _kind(state: RotationState) -> str:
    return ROLLED_BACK if state.locked else ""


def _hand_over(context: Context, names: IdentityNames) -> None:
    """Encrypt what the rotation's keys can read to the key in use. Raises ServerRefusedError, PendingError."""
    state = context.rotation
    for source in (state.new, state.old):
        store = context.device.store_of(source)
        if source == NOWHERE or store.find_key(source.key) is None:
            continue
        context.fioconfig.hold(context.rotation)
        keys = (partial(store.key, source.key), partial(context.device.store.key, names.key))
        context.local_config.settle(None, *keys)
        move_files(context, source, names, via=names)
