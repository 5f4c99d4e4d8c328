"""The five steps of a rotation, in fioconfig's order and with its names.

Each step finds out what is missing, does it, and returns the new state. Each can run again after a power cut anywhere;
what has to survive a cut is journalled before the next effect.
"""

import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import NamedTuple

from handler.crypto import encrypted_values
from handler.crypto.csr import spki_pem
from handler.crypto.encrypted_values import ConfigEntries
from handler.device.keystore import IdentityNames
from handler.errors import FORESEEABLE, OfflineError, PendingError, ServerRefusedError, describe, is_final, until
from handler.journal.pending import COMPLETED
from handler.journal.rotation_state import RotationState
from handler.rotation import fioconfig
from handler.rotation.context import Context
from handler.rotation.rules import Action
from handler.servers.gateway import CERTIFICATE_REFUSALS

from .enrolment import enrol

log = logging.getLogger(__name__)


class Step(NamedTuple):
    """One step: its number (from 1), the name of its event, and its function."""

    number: int
    name: str
    run: Callable[[Context], RotationState]


def announce(context: Context) -> RotationState:
    """Tell the gateway which key comes next (step 2)."""
    state = context.rotation
    try:
        # Later the device's files on the server cannot be repaired, so refuse now if one is unreadable.
        encrypted_values.check_readable(context.connections.device_config(state.old), context.key(state.old))
        return _announced(context, state)
    except ServerRefusedError as error:
        if not (state.announced and _is_over(context, state.old, error)):
            raise
        return _left(state, error)


def _announced(context: Context, state: RotationState) -> RotationState:
    """Tell the gateway, journalled first because its answer may be lost. After a final no it knows nothing."""
    before = state.announced
    if not before:
        state = context.record(replace(state, announced=True))
    gateway = context.connections.gateway(state.old)
    try:
        gateway.announce_key(state.public_key or "")
    except ServerRefusedError as error:
        may_be_known = (before or gateway.http.repeated) and error.status in CERTIFICATE_REFUSALS
        context.record(replace(state, announced=may_be_known))
        raise
    return state


def prepare_local_config(context: Context) -> RotationState:
    """Encrypt a copy of config.encrypted to the new key (step 3)."""
    state = fioconfig.hold(context)
    digest = context.local_config.prepare(context.key(state.old), context.key(state.new))
    return replace(state, config_digest=digest)


def update_device_config(context: Context) -> RotationState:
    """Encrypt the device's files on the server to the new key (step 4)."""
    state = context.rotation
    try:
        try:
            move_device_config(context, state.old, state.new)
        except ServerRefusedError as error:
            if error.status in CERTIFICATE_REFUSALS:
                raise
            # A gateway that was restored from a backup has forgotten the new key: tell it again.
            log.info("announcing the new key again: %s", error)
            try:
                context.connections.gateway(state.old).announce_key(state.public_key or "")
            except ServerRefusedError as other:
                raise error from other
            move_device_config(context, state.old, state.new)
    except ServerRefusedError as error:
        if not _is_over(context, state.old, error):
            raise
        return _left(state, error)
    return state


def _is_over(context: Context, names: IdentityNames, error: ServerRefusedError) -> bool:
    """Tell whether a refusal means that this certificate is no longer accepted: revoked or expired."""
    if error.status is None:
        return True
    ended = context.device.store.certificate(names.certificate).has_ended(datetime.now(UTC))
    return ended and error.status in CERTIFICATE_REFUSALS


def _left(state: RotationState, error: ServerRefusedError) -> RotationState:
    """Continue without the old certificate: the gateway knows the new key, and the device's files follow later."""
    reason = (
        f"the device gateway no longer accepts the old certificate ({error}): postponed until it accepts the new one"
    )
    log.warning("%s", reason)
    return replace(state, files_left=reason)


def move_device_config(
    context: Context, old: IdentityNames, new: IdentityNames, via: IdentityNames | None = None
) -> bool:
    """Encrypt the device's files on the server to `new`, authenticated as `via` (default `old`).

    Tells whether any had to be changed: values that `new` decrypts were moved before a power cut.
    Raises ServerRefusedError, RefusedError (no key can read them), PendingError.
    """
    gateway = context.connections.gateway(via or old)

    def moved() -> tuple[ConfigEntries, bool]:
        return encrypted_values.reencrypt(gateway.device_config(), context.key(old), context.key(new), lenient=True)

    config, changed = moved()
    stored = changed and gateway.update_device_config(config, spki_pem(context.key(new).public_key()))
    if changed and not stored and moved()[1]:  # evidence over an answer that something in front may have given
        raise PendingError("the device gateway does not have the files that it accepted: a proxy answers for it")
    return changed


def finalize(context: Context) -> RotationState:
    """Switch sota.toml and config.encrypted to the new key (step 5): the one commit point."""
    state = context.rotation
    if context.device.names_in_use(state.new) != state.new:
        state = fioconfig.hold(context)
        if context.local_config.digest() != state.config_digest:  # fioconfig has stored another one since step 3
            state = context.record(prepare_local_config(context))
    switch(context)
    return state


def switch(context: Context) -> None:
    """Point sota.toml at the new identity, then config.encrypted; change nothing if that identity is incomplete."""
    device, state = context.device, context.rotation
    if device.names_in_use(state.new) != state.new:
        device.identity(state.new)
        device.store.check(state.new)
        context.local_config.check_replaceable()
        device.switch(state.new)
    settle(context)


def settle(context: Context) -> None:
    """Make config.encrypted readable with the new key, which is in use; needs no network."""
    state = context.rotation
    keys = (partial(context.key, state.old), partial(context.key, state.new))
    if context.local_config.settle(state.config_digest, *keys):
        context.settled = True


def settle_back(context: Context) -> bool:
    """Make config.encrypted readable with the old key, which is in use again; tell whether it was changed."""
    state = context.rotation
    return context.local_config.settle(None, partial(context.key, state.new), partial(context.key, state.old))


STEPS = {
    Action.ENROL: Step(1, "Generate new certificate", enrol),
    Action.ANNOUNCE: Step(2, "Lock device configuration on server", announce),
    Action.PREPARE: Step(3, "Update local configuration with new key", prepare_local_config),
    Action.MOVE: Step(4, "Update device specific configuration on server with new key", update_device_config),
    Action.SWITCH: Step(5, "Finalize aktualizr configuration", finalize),
}


def run_step(context: Context, step: Step, *, is_new_in_use: bool) -> None:
    """Run a step; journal and report how it ends. `is_new_in_use`: a power cut came inside the last step."""
    state, progress = context.rotation, context.progress
    progress.step_started(step.number, step.name)
    try:
        done = replace(step.run(context), step=max(state.step, step.number))
        left = None if done.files_left == state.files_left else done.files_left
        context.record(done, context.events(state.rotation_id).make(step.name, failure=left))
    except FORESEEABLE as error:
        progress.step_failed(describe(error))
        _record_failure(context, step, error, is_refused=is_final(error) and not is_new_in_use)
        raise
    if left is None:
        progress.step_done()
    else:
        progress.step_failed(left)


def _record_failure(context: Context, step: Step, error: Exception, *, is_refused: bool) -> None:
    state, reason, waiting = context.rotation, describe(error), context.journal.facts.waiting
    events = context.events(state.rotation_id)
    # A Retry-After is reported once, a missing network not at all.
    known = isinstance(error, OfflineError) or (waiting is not None and None not in (waiting.until, until(error)))
    reported = [] if known else [events.make(step.name, failure=reason)]
    if is_refused:
        if state.locked:
            reported.append(events.make(COMPLETED, failure=reason))
        state = replace(state, refused=reason)
    try:
        context.record(state, *reported)
    except FORESEEABLE as second:
        # Report the first error; the next call finds what could not be journalled.
        log.warning("after that failure: %s", describe(second))
