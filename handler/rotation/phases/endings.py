"""How an unfinished rotation ends: it rolls back, is dropped or kept, or is given up."""

import logging
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

from handler.device.keystore import IdentityNames
from handler.errors import RefusedError, RequestRefusedError, ServerRefusedError
from handler.journal.history import ROLLED_BACK
from handler.journal.pending import COMPLETED, LOCKED
from handler.journal.rotation_state import SWITCHED, Kept
from handler.rotation import fioconfig, found
from handler.rotation.context import Context
from handler.rotation.found import Mark, Named, Way, Wish
from handler.rotation.look import is_shown, mark_of, named_by_configuration
from handler.servers.gateway import CERTIFICATE_REFUSALS
from hsm.errors import UnsupportedError

from .completion import move_files
from .steps import settle_back
from .takeover import NOWHERE

log = logging.getLogger(__name__)


def ask(context: Context) -> None:
    """Find out whether the rotation can roll back. Raises ServerRefusedError, PendingError."""
    memory, state = context.memory, context.rotation
    named_old = named_by_configuration(context, state) is Named.OLD
    if named_old and context.device.store_of(state.new).find_key(state.new.key) is None:
        memory.way = Way.BACK  # everything was done before a power cut
        return
    closed = ""
    if state.old == NOWHERE:
        closed = "fioconfig itself had switched to the new certificate, and the old one is unknown"
    else:
        try:
            context.connections.gateway(state.old).device_config()
        except ServerRefusedError as error:
            if error.status in CERTIFICATE_REFUSALS:
                closed = f"the device gateway refuses the old certificate: {error}"
            elif memory.refused_before is not None:
                closed = str(error)
            else:
                raise
    memory.way, memory.why_closed = (Way.CLOSED if closed else Way.OPEN), closed


def go_back(context: Context) -> None:
    """Return to the old identity: sota.toml, config.encrypted, the files on the server. Idempotent."""
    state = context.rotation
    if state.step >= LOCKED:  # otherwise nothing but the gateway knows of the new key
        state = fioconfig.hold(context)
        # A cut that came inside of the switch: its users may have loaded the new identity, and are told (again).
        step = SWITCHED if context.device.names_in_use(state.new) == state.new else state.step
        state = replace(state, files_left=state.files_left or "a roll-back was begun", step=max(state.step, step))
        if state != context.rotation:
            context.record(state)
    undone = context.device.switch(state.old)
    if state.step >= LOCKED:
        undone |= settle_back(context)
        move_files(context, state.new, state.old, via=state.old)
    context.settled = False
    if undone or state.step >= SWITCHED:
        context.services.restart_aktualizr()
    log.warning(
        "until a rotation succeeds, the device gateway may reject configuration changes for this device; "
        "fix the cause and rotate again"
    )
    context.memory.way = Way.BACK


def end(context: Context, *, keep: bool = False) -> None:
    """End a rotation whose new identity is not in use, as the journal says already, and destroy that identity.

    `keep`: keep it, because a replica of the gateway may have accepted it; without a certificate, keep the earlier one.
    """
    memory, state, before = context.memory, context.rotation, context.journal.facts.kept
    reason = f"rolled back, {state.rollback}" if state.locked else state.rollback or state.refused or ""
    reported = f"{reason}; {memory.hooks}" if memory.hooks else reason
    kept = None
    if keep:
        last = before.rotation if state.certificate is None and before is not None else state
        kept = Kept(replace(last, chain=(), fioconfig_stopped=False), datetime.now(UTC).isoformat(timespec="seconds"))
    else:
        context.device.discard(state.new)
    _record_end(context, reported, kept)
    log.info("rotation ended%s: %s", ", keeping its key" if keep else "", reported)
    memory.hooks = None
    memory.delivered, memory.way, memory.refused_before = False, Way.UNKNOWN, None
    memory.kept = found.Kept.NONE  # the gateway has just taken the old certificate
    mark = mark_of(state)
    if mark is Mark.TAKEN_BACK:
        raise ServerRefusedError(reason)
    if mark is Mark.BY_HAND and memory.wish is not Wish.ABORT:
        log.warning("aborted as requested: %s", reason)
    elif mark is Mark.SUPERSEDED and state.locked:
        log.warning("%s", reason)


def give_up(context: Context) -> None:
    """End a rotation because another program changed the identity in use; change nothing if that is unusable.

    What only the new key can read is encrypted to the key in use first; if the gateway refuses that, or the certificate
    in use, the new key stays (lost_journal.py). Raises RequestRefusedError after that, unless this is an abort.
    """
    state, device = context.rotation, context.device
    names = device.names_in_use(state.old, state.new)
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
    _record_end(context, reason)
    context.memory.delivered = False
    if context.memory.wish is not Wish.ABORT:
        raise RequestRefusedError(reason)
    log.warning("%s", reason)


def _record_end(context: Context, reason: str, kept: Kept | None = None) -> None:
    """Journal and report the end. `kept`: the identity to keep now; an earlier one stays unless this is its key."""
    fioconfig.release(context)
    context.local_config.forget()
    state, before = context.rotation, context.journal.facts.kept
    if kept is None and before is not None and before.rotation.new != state.new:
        kept = before
    event = context.events(state.rotation_id).make(COMPLETED, failure=reason)
    context.journal.record(None, event, keep=kept, kind=ROLLED_BACK if state.locked else "")


def _hand_over(context: Context, names: IdentityNames) -> None:
    """Encrypt what the rotation's keys can read to the key in use. Raises ServerRefusedError, PendingError."""
    state = context.rotation
    for source in (state.new, state.old):
        store = context.device.store_of(source)
        if source == NOWHERE or store.find_key(source.key) is None:
            continue
        fioconfig.hold(context)
        keys = (partial(store.key, source.key), partial(context.device.store.key, names.key))
        context.local_config.settle(None, *keys)
        move_files(context, source, names, via=names)
