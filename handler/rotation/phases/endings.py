"""How a rotation ends that is not finished: it goes back, is dropped, or is given up."""

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
from handler.servers.gateway import CERTIFICATE_REFUSALS
from hsm.errors import UnsupportedError

from .completion import move_files
from .steps import settle_back
from .takeover import NOWHERE

log = logging.getLogger(__name__)


def why_no_way_back(context: Context) -> str | None:
    """Say why the old identity cannot be used any more; None where it can. Raises what asking the gateway raises."""
    state = context.rotation
    if state.old == NOWHERE:
        return "fioconfig itself had switched to the new certificate, and the old one is not known"
    try:
        context.connections.gateway(state.old).device_config()
    except ServerRefusedError as error:
        if error.status in CERTIFICATE_REFUSALS:
            return f"the gateway refuses the old certificate: {error}"
        raise
    return None


def go_back(context: Context) -> None:
    """Return to the old identity: sota.toml, config.encrypted, the files on the server. Can be run again.

    Raises RefusedError, PendingError, hsm.errors.TokenError, OSError.
    """
    state = context.rotation
    if state.step >= LOCKED:  # else the gateway was told of the new key, and nothing else was done
        state = context.fioconfig.hold(state)
        if state.files_left is None:
            state = replace(state, files_left="a roll-back was begun")
            context.journal.record(state)
    undone = context.device.switch(state.old)
    if state.step >= LOCKED:
        undone |= settle_back(context, state)
        move_files(context, state.new, state.old, via=state.old)
    context.settled = False
    if undone or state.step >= SWITCHED:
        context.services.restart_aktualizr()
    log.warning("the gateway may take no changes of this device's configuration until a rotation is complete")


def keep(context: Context, reason: str) -> None:
    """End a rotation whose new identity is not in use, and keep that: a replica of the gateway may have taken it.

    What was kept before stays where this rotation, with the same key, has got no certificate. Raises OSError.
    """
    state, before = context.rotation, context.journal.kept
    now = datetime.now(UTC).isoformat(timespec="seconds")
    if state.certificate is None and before is not None:
        state = before.rotation
    context.fioconfig.release()
    context.local_config.forget()
    event = context.events(context.rotation.rotation_id).make(COMPLETED, failure=reason)
    keep = Kept(replace(state, fioconfig_stopped=False), now)
    context.journal.record(None, event, without=COMPLETED, keep=keep, kind=_kind(context.rotation))
    log.info("rotation ended, its key is kept: %s", reason)


def drop(context: Context, reason: str) -> None:
    """End a rotation whose new identity is not in use: destroy that, journal the end.

    Raises RefusedError, hsm.errors.TokenError, OSError.
    """
    context.device.discard(context.rotation.new)
    _end(context, reason)
    log.info("rotation ended: %s", reason)


def give_up(context: Context, names: IdentityNames) -> str:
    """Leave a device alone whose identity somebody else changed to `names` meanwhile; give the reason, journalled.

    What only the new key reads by now is encrypted to the key in use before the new one goes; where the gateway
    refuses that, the key stays for later (lost_journal.py). Raises RefusedError and hsm.errors.TokenError where the
    identity in use is none (nothing is done then), PendingError.
    """
    state, device = context.rotation, context.device
    device.open_store()
    device.identity(names)
    reason = (
        f"the configuration names {names.key} and {names.certificate}, neither the old identity of rotation "
        f"{state.rotation_id} nor its new one: somebody else changed it, so the rotation is given up"
    )
    try:
        if state.step >= LOCKED:
            _hand_over(context, names)
        device.discard(state.new)
    except ServerRefusedError as error:
        log.warning("key %s is kept, as files on the server may be for that one only: %s", state.new.key, error)
        context.journal.leave(state)
    except (RefusedError, UnsupportedError) as error:  # a part of it is in use, or it is in a store of another kind
        log.info("%s", error)
    _end(context, reason)
    return reason


def _end(context: Context, reason: str) -> None:
    context.fioconfig.release()
    context.local_config.forget()
    event = context.events(context.rotation.rotation_id).make(COMPLETED, failure=reason)
    kept = context.journal.kept
    gone = kept is not None and kept.rotation.new == context.rotation.new
    keep, kind = None if gone else kept, _kind(context.rotation)
    context.journal.record(None, event, without=COMPLETED, keep=keep, kind=kind)


def _kind(state: RotationState) -> str:
    return ROLLED_BACK if state.locked else ""


def _hand_over(context: Context, names: IdentityNames) -> None:
    """Have what the rotation's keys read encrypted to the key in use. Raises ServerRefusedError, PendingError."""
    state = context.rotation
    for source in (state.new, state.old):
        store = context.device.store_of(source)
        if source == NOWHERE or store.find_key(source.key) is None:
            continue
        context.fioconfig.hold(context.rotation)
        keys = (partial(store.key, source.key), partial(context.device.store.key, names.key))
        context.local_config.settle(None, *keys)
        move_files(context, source, names, via=names)
