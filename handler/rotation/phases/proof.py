"""The proof: a yes to the new certificate that only the gateway can give.

Anything in front of it may answer instead: nginx lets an untrusted certificate through the handshake and answers 400,
load balancers reset connections, firewalls answer 4xx. So only an answer in the gateway's format proves anything.
"""

import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

from handler.crypto.csr import spki_pem
from handler.device.keystore import IdentityNames
from handler.errors import (
    FORESEEABLE,
    ConnectionLostError,
    OfflineError,
    PageError,
    PendingError,
    PostponedError,
    RefusedError,
    RenewalError,
    ServerBusyError,
    ServerRefusedError,
    describe,
    is_final,
)
from handler.journal.events import Event
from handler.journal.pending import COMPLETED
from handler.journal.rotation_state import PROVED, SWITCHED, RotationState
from handler.rotation import found
from handler.rotation.context import Context
from handler.rotation.found import Sight, Taken, Way, Wish
from handler.servers.delivery import deliver, next_batch
from handler.servers.gateway import CERTIFICATE_REFUSALS

from .enrolment import curve_of
from .takeover import NOWHERE

log = logging.getLogger(__name__)

SUCCESS, SERVER_ERRORS = range(200, 300), range(500, 600)
BREAKS = 3
"""Consecutive broken connections with the new certificate that count as a no, if the old one is accepted."""
DOUBT = 60.0
"""Seconds that the old certificate has to be refused before the kept one is tried."""


def prove(context: Context) -> None:
    """Show the gateway the new certificate: post the completion, or else ask for the device's files.

    The second time in a round, on a fresh connection.
    """
    memory, state = context.memory, context.rotation
    before, taken = memory.new, memory.old is Taken.YES
    if not state.reported:
        state = context.record(replace(state, reported=True), context.events(state.rotation_id).make(COMPLETED))
    if before is not Sight.UNKNOWN:
        context.connections.close()
    events = next_batch(context.journal.undelivered())
    sight, memory.said = _sight(lambda: _post(context, events)) if events else (Sight.NO, None)
    memory.unreported = memory.said
    if sight is not Sight.YES and not isinstance(memory.said, OfflineError):
        # What blocks the events, or lets them time out, may not block the files.
        sight, memory.said = _takes(context, state.new)
    memory.breaks = memory.breaks + 1 if sight is Sight.BROKEN else 0
    if taken and (before is sight is Sight.NO or memory.breaks >= BREAKS):
        memory.new = Sight.NO_AGAIN
    else:
        memory.new = sight
        memory.old = Taken.UNKNOWN


def ask_old(context: Context) -> None:
    """Ask the gateway for the files as the old identity."""
    sight, said = _takes(context, context.rotation.old)
    log.info("the device gateway's answer to the old certificate: %s", said or "accepted")
    context.memory.old, context.memory.old_said = (Taken.YES, None) if sight is Sight.YES else (Taken.UNCLEAR, said)


def take_back(context: Context) -> None:
    """Journal that the rotation rolls back, as the gateway accepts the old certificate. Raises OSError."""
    memory = context.memory
    reason = f"the device gateway refused the new certificate: {memory.said}"
    memory.way, memory.new, memory.old = Way.OPEN, Sight.UNKNOWN, Taken.UNKNOWN
    context.record(replace(context.rotation, rollback=reason))


def again(context: Context) -> None:
    """Wait for another round. Raises PendingError if the time of this call is over."""
    memory, said = context.memory, context.memory.said
    if not isinstance(said, PendingError):
        if memory.old_said is None:
            said = PendingError(f"what answers to the new certificate is not the device gateway: {said}")
        else:
            both = "the device gateway accepts neither the new certificate nor the old one"
            said = _later(f"{both}: {said}; {memory.old_said}", memory.old_said)
    if isinstance(said, OfflineError):  # at boot, fioconfig has other files to extract
        raise said
    context.connections.wait(memory.rounds, said)
    memory.rounds += 1
    memory.new, memory.old = Sight.UNKNOWN, Taken.UNKNOWN


def record(context: Context) -> None:
    """Journal the proof, then deliver the waiting events. Raises OSError."""
    memory = context.memory
    context.record(replace(context.rotation, step=PROVED))
    memory.new, memory.old = Sight.UNKNOWN, Taken.UNKNOWN  # another rotation in this call starts from nothing
    if memory.unreported is not None:
        log.warning("the device gateway accepts the new certificate, but not the events: %s", memory.unreported)
        return
    try:
        deliver(context.journal, context.connections.gateway(context.rotation.new))
    except FORESEEABLE as error:
        log.info("keeping events for later: %s", describe(error))


# The kept identity


def watch(context: Context) -> None:
    """Check if the gateway accepts the old certificate, or has refused it for a minute. Raises PendingError before."""
    memory, journal, kept = context.memory, context.journal, context.kept
    memory.kept = found.Kept.LEFT
    settle_kept(context)
    sight, said = _takes(context, context.device.names_in_use())
    if not isinstance(said, ServerRefusedError) or said.status not in CERTIFICATE_REFUSALS:
        if sight is Sight.YES and kept.refused is not None:
            journal.record(None, keep=replace(kept, refused=None))
        if memory.wish is Wish.UNATTENDED:
            back = f"rotation {kept.rotation.rotation_id} was rolled back"
            journal.wait(_later(f"{back}: checking for a day whether the device gateway accepts it after all", said))
        return
    now = datetime.now(UTC)
    if kept.refused is not None and abs((now - datetime.fromisoformat(kept.refused)).total_seconds()) >= DOUBT:
        memory.kept = found.Kept.NEEDED
        return
    if kept.refused is None:
        journal.record(None, keep=replace(kept, refused=now.isoformat(timespec="seconds")))
    raise PendingError(
        f"the device gateway refuses the certificate in use ({said}); if it still does in a minute, trying the one of "
        f"rotation {kept.rotation.rotation_id}, which was rolled back"
    )


def settle_kept(context: Context) -> bool:
    """Encrypt config.encrypted to the key in use if it is encrypted to the kept one; tell whether it was.

    A fioconfig that had loaded the kept key may have stored it after the roll-back.
    """
    context.device.open_store()
    keys = (partial(context.key, each) for each in (context.kept.rotation.new, context.device.names_in_use()))
    return context.local_config.settle(None, *keys)


def restore(context: Context) -> None:
    """Continue a rotation that was rolled back, if the gateway accepts its certificate. Raises PendingError."""
    memory, state = context.memory, context.kept.rotation
    sight, said = _takes(context, state.new)
    if sight is not Sight.YES:
        raise _later(f"the device gateway accepts neither the certificate in use nor the kept one: {said}", said)
    log.warning("the device gateway accepts the certificate of rotation %s after all: continuing it", state.rotation_id)
    left = "the rotation was rolled back before"
    # Whatever step it had reached, only the switch is left: the other steps need the old certificate, which is refused.
    step = SWITCHED - 1
    state = replace(state, step=step, announced=True, files_left=left, rollback=None, refused=None, reported=False)
    taken = any(
        each and each.rotation_id == state.rotation_id for each in (memory.request, context.journal.facts.requested)
    )
    context.journal.record(state, keep=None, taken=taken)
    memory.request = None if taken else memory.request


def with_kept_key(context: Context, state: RotationState) -> RotationState:
    """Make a new rotation use the kept key pair again, if it still exists.

    Otherwise there would be two keys that the gateway may have accepted. Raises hsm.errors.TokenError if it may pass.
    """
    if context.journal.facts.kept is None:
        return state
    before, device = context.journal.facts.kept.rotation, context.device
    try:
        key = device.store_of(before.new).find_key(before.new.key)
        device.check_not_in_use(before.new)
        curve = curve_of(device.store.certificate(state.old.certificate))
    except FORESEEABLE as error:
        if not is_final(error):  # the new key would replace the kept one in its slot
            raise
        log.warning("not using the kept key again: %s", describe(error))
        return state
    if key is None or spki_pem(key.public_key()) != before.public_key or key.curve.name != curve.name:
        log.warning("not using the kept key again: it is missing or has changed")
        return state
    return replace(state, new=before.new, public_key=before.public_key)


def _later(text: str, said: RenewalError | None) -> PendingError:
    """Return a failure that may pass, with the time that the gateway asks to wait in its answer `said`."""
    until = said.not_before if isinstance(said, PostponedError) else None
    return PostponedError(text, until) if until else PendingError(text)


def _post(context: Context, events: list[Event]) -> None:
    context.connections.gateway(context.rotation.new).post_events(events, once=True)
    context.journal.delivered(events)


def _takes(context: Context, names: IdentityNames) -> tuple[Sight, RenewalError | None]:
    if names == NOWHERE:
        return Sight.UNCLEAR, RefusedError("the old one is unknown: fioconfig itself had switched to the new one")
    return _sight(lambda: context.connections.gateway(names).device_config(once=True))


def _sight(ask: Callable[[], object]) -> tuple[Sight, RenewalError | None]:
    try:
        ask()
    except ServerRefusedError as error:
        if error.status in SERVER_ERRORS:
            return Sight.UNCLEAR, ServerBusyError(str(error))
        return (Sight.UNCLEAR if error.status in SUCCESS else Sight.NO), error
    except PageError as error:  # final: only a trusted server in front can have sent it
        return Sight.NO, error
    except ConnectionLostError as error:
        return Sight.BROKEN, error
    except (PendingError, RefusedError) as error:
        return Sight.UNCLEAR, error
    return Sight.YES, None
