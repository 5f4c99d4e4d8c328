"""What the gateway says to a certificate. Proof is a yes that only the gateway can give.

Anything in front of it may answer in its place: nginx lets an untrusted certificate through the handshake and answers
400, load balancers reset, firewalls say 4xx. So no status proves anything but that of an answer in the gateway's shape.
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
    RefusedError,
    RenewalError,
    ServerRefusedError,
    UnreachableError,
    describe,
)
from handler.journal.pending import COMPLETED
from handler.journal.rotation_state import PROVED, SWITCHED, Kept, RotationState
from handler.rotation import found as rules
from handler.rotation.context import Context
from handler.rotation.found import Sight, Taken, Way, Wish
from handler.rotation.memory import Memory
from handler.servers.delivery import deliver, next_batch
from handler.servers.gateway import CERTIFICATE_REFUSALS

from .enrolment import curve_of
from .takeover import NOWHERE

log = logging.getLogger(__name__)

SUCCESS = range(200, 300)
BREAKS = 3
"""Connections in a row that break on the new certificate, while the old one is taken, say that it is refused."""
DOUBT = 60.0
"""Seconds for which the old certificate has to be refused before the kept one is shown."""


def prove(context: Context, memory: Memory) -> None:
    """Show the gateway the new certificate, from the second time in a round on over a new connection.

    Reports the completion over it, else asks for the files. Raises hsm.errors.TokenError, OSError.
    """
    state, before, taken = context.rotation, memory.new, memory.old is Taken.YES
    if not state.reported:
        state = replace(state, reported=True)
        context.journal.record(state, context.events(state.rotation_id).make(COMPLETED))
    if before is not Sight.UNKNOWN:
        context.connections.close()
    sight, memory.said = _sight(lambda: _report(context))
    memory.unreported = memory.said
    unreached = sight is Sight.UNCLEAR and isinstance(memory.said, OfflineError | UnreachableError)
    if sight is not Sight.YES and not unreached:  # whatever stands before the events need not stand before the files
        sight, memory.said = _sight(lambda: _files(context, state.new))
    memory.breaks = memory.breaks + 1 if sight is Sight.BROKEN else 0
    if taken and (before is sight is Sight.NO or memory.breaks >= BREAKS):
        memory.new = Sight.NO_AGAIN
    else:
        memory.new = sight
        memory.old = Taken.UNKNOWN


def ask_old(context: Context, memory: Memory) -> None:
    """Ask the gateway for the files as the old identity. Raises hsm.errors.TokenError, OSError."""
    sight, said = _takes(context, context.rotation.old)
    log.info("the gateway, asked with the old certificate: %s", said or "taken")
    memory.old, memory.old_said = (Taken.YES, None) if sight is Sight.YES else (Taken.UNCLEAR, said)


def take_back(context: Context, memory: Memory) -> None:
    """Have the journal say that all goes back: the way is open, as the old certificate is taken. Raises OSError."""
    reason = f"the gateway refused the new certificate: {memory.said}"
    memory.way, memory.new, memory.old = Way.OPEN, Sight.UNKNOWN, Taken.UNKNOWN
    context.journal.record(replace(context.rotation, rollback=reason))


def again(context: Context, memory: Memory) -> None:
    """Wait in line for another round. Raises PendingError where that does not fit this call."""
    said = memory.said
    if not isinstance(said, PendingError):
        said = PendingError(f"the gateway takes neither the new certificate nor the old one: {said}; {memory.old_said}")
    context.connections.wait(memory.rounds, said)
    memory.rounds += 1
    memory.new, memory.old = Sight.UNKNOWN, Taken.UNKNOWN


def record(context: Context, memory: Memory) -> None:
    """Journal the proof, and deliver what still waits. Raises OSError."""
    context.journal.record(replace(context.rotation, step=PROVED))
    memory.new, memory.old = Sight.UNKNOWN, Taken.UNKNOWN  # of another rotation in this call nothing is known
    if memory.unreported is not None:
        log.warning("the gateway takes the new certificate, but not the events: %s", memory.unreported)
        return
    try:
        deliver(context.journal, context.connections.gateway(context.rotation.new))
    except FORESEEABLE as error:
        log.info("events are kept for later: %s", describe(error))


# What was rolled back, and is kept


def kept(context: Context) -> Kept:
    """Give the rotation that is kept; there is one."""
    found = context.journal.kept
    assert found is not None  # noqa: S101 - the rules ask for it only then
    return found


def watch(context: Context, memory: Memory) -> None:
    """Look whether the gateway still takes the old certificate, or has refused it for a minute.

    Raises PendingError where it is refused for the first time, hsm.errors.TokenError, OSError.
    """
    memory.kept = rules.Kept.LEFT
    found, journal = kept(context), context.journal
    settle_kept(context)
    sight, said = _takes(context, context.device.names_in_use())
    if not isinstance(said, ServerRefusedError) or said.status not in CERTIFICATE_REFUSALS:
        if sight is Sight.YES and found.refused is not None:
            journal.record(None, keep=replace(found, refused=None))
        if memory.wish is Wish.UNATTENDED:
            journal.wait(PendingError(f"rotation {found.rotation.rotation_id} was rolled back: looked at for a day"))
        return
    now = datetime.now(UTC)
    if found.refused is not None and abs((now - datetime.fromisoformat(found.refused)).total_seconds()) >= DOUBT:
        memory.kept = rules.Kept.NEEDED
        return
    if found.refused is None:
        journal.record(None, keep=replace(found, refused=now.isoformat(timespec="seconds")))
    raise PendingError(
        f"the gateway refuses the certificate in use ({said}): if it still does in a minute, the one of rotation "
        f"{found.rotation.rotation_id} is tried, which was rolled back"
    )


def settle_kept(context: Context) -> bool:
    """Make config.encrypted readable with the key in use where it is for the kept one; tell whether it was changed.

    A fioconfig that was started with that one may have stored it after the roll-back. Raises hsm.errors.TokenError,
    OSError.
    """
    context.device.open_store()
    kept_key, key = kept(context).rotation.new, context.device.names_in_use()
    return context.local_config.settle(None, partial(context.key, kept_key), partial(context.key, key))


def restore(context: Context, memory: Memory) -> None:
    """Go on with a rotation that was rolled back, where the gateway takes its certificate. Raises PendingError."""
    state = kept(context).rotation
    sight, said = _takes(context, state.new)
    if sight is not Sight.YES:
        raise PendingError(f"the gateway takes neither the certificate in use nor the one that is kept: {said}")
    log.warning("the gateway has taken the certificate of rotation %s after all: it goes on", state.rotation_id)
    left = "the rotation was rolled back before"
    again_from = min(state.step, SWITCHED - 1)
    state = replace(state, step=again_from, files_left=left, rollback=None, refused=None, reported=False)
    context.journal.record(state, keep=None)
    if memory.request is not None and memory.request.rotation_id == state.rotation_id:
        memory.request = None


def with_kept_key(context: Context, state: RotationState) -> RotationState:
    """Have a rotation that begins use the key pair that was kept again, if that is still there.

    Else there would be two keys of which the gateway may have taken one.
    """
    if context.journal.kept is None:
        return state
    before, device = context.journal.kept.rotation, context.device
    try:
        device.open_store()
        key = device.store_of(before.new).find_key(before.new.key)
        device.check_not_in_use(before.new)
        curve = curve_of(device.store.certificate(state.old.certificate))
    except FORESEEABLE as error:
        log.warning("the key that was kept is not used again: %s", describe(error))
        return state
    if key is None or spki_pem(key.public_key()) != before.public_key or key.curve.name != curve.name:
        log.warning("the key that was kept is not used again: it is not there, or another one")
        return state
    return replace(state, new=before.new, public_key=before.public_key)


def _report(context: Context) -> bool:
    """Offer the oldest events; tell whether the answer is one of the gateway's own."""
    gateway, batch = context.connections.gateway(context.rotation.new), next_batch(context.journal.undelivered())
    if not batch:
        return False
    own = gateway.post_events(batch, once=True)
    context.journal.delivered(batch)
    return own


def _files(context: Context, names: IdentityNames) -> bool:
    context.connections.gateway(names).device_config(once=True)
    return True


def _takes(context: Context, names: IdentityNames) -> tuple[Sight, RenewalError | None]:
    if names == NOWHERE:
        return Sight.UNCLEAR, RefusedError("the old one is not known: fioconfig itself had switched to the new one")
    return _sight(lambda: _files(context, names))


def _sight(ask: Callable[[], bool]) -> tuple[Sight, RenewalError | None]:
    try:
        return (Sight.YES if ask() else Sight.NO), None
    except ServerRefusedError as error:
        return (Sight.UNCLEAR if error.status in SUCCESS else Sight.NO), error
    except PageError as error:  # final: nobody but a server in front, which we trust, can have sent it
        return Sight.NO, error
    except ConnectionLostError as error:
        return Sight.BROKEN, error
    except (PendingError, RefusedError) as error:
        return Sight.UNCLEAR, error
