"""What `renew-client-cert status` shows: what is in use, what is pending, what is left to say. docs/status.md.

It takes no lock, needs no network, and leaves the PIN alone wherever the token shows its certificates without it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from handler.console.arguments import Settings
from handler.console.table import hanging
from handler.device import completed_rotations as completed
from handler.device.configuration.values import TOKEN, Configured
from handler.device.keystore import IdentityNames
from handler.device.request import Overrides
from handler.device.storage import holder
from handler.inspection.effective_request import Asked
from handler.inspection.identity import Identity, read_identity
from handler.journal.history import History
from handler.journal.journal import ANNOUNCED, PROVED, SWITCHED
from handler.journal.pending import COMPLETED, FOLDER
from handler.journal.snapshot import View

from .slots import AMBIGUOUS, IN_USE, STRANGE, use_of

if TYPE_CHECKING:
    from cryptography import x509

EMPTY = "empty"
_NAME_WIDTH = 15
_SLOTS = {"key": "key slots", "certificate": "cert slots"}


@dataclass(frozen=True)
class Slot:
    """A place in the token that a rotation may use."""

    kind: str
    """`key` or `certificate`."""
    id: str
    use: str
    """`in use`, `empty`, or as `slots` says."""


@dataclass(frozen=True)
class LastRotation:
    """How the last rotation ended."""

    rotation_id: str
    time: str | None
    success: bool
    details: str = ""


@dataclass(frozen=True)
class Status:
    """Everything that is shown."""

    now: datetime
    storage: Path | None
    identity: Identity
    slots: tuple[Slot, ...]
    last: LastRotation | None
    view: View
    running: str | None
    """Who holds the device's lock, where somebody does."""


def read_status(settings: Settings, configured: Configured) -> Status:
    """Look. Raises nothing that is foreseeable."""
    storage = configured.storage
    identity = read_identity(configured)
    if identity.source == TOKEN and identity.problem is None:  # it shows its certificate without the PIN
        identity = replace(identity, problem=configured.value("p11.pass").problem)
    view = View.of(storage)
    return Status(
        now=datetime.now(UTC),
        storage=storage,
        identity=identity,
        slots=_slots(settings, identity, view),
        last=None if storage is None else _last_rotation(storage, view),
        view=view,
        running=None if storage is None else _running(storage),
    )


def _slots(settings: Settings, identity: Identity, view: View) -> tuple[Slot, ...]:
    names = identity.names
    if identity.source != TOKEN or identity.token is None or names is None:
        return ()
    asked = Asked.of(settings, Overrides(), view, token=True)
    places = (("key", asked.key_ids, names.key), ("certificate", asked.certificate_ids, names.certificate))
    return tuple(
        Slot(kind, each, _use(identity, names, view, each, kind))
        for kind, ids, used in places
        for each in sorted({*ids, used})
    )


def _use(identity: Identity, names: IdentityNames, view: View, object_id: str, kind: str) -> str:
    """Give the use of what is under an id: what is least ours of it."""
    used = getattr(names, kind)
    if not identity.items:
        return IN_USE if object_id == used else "unknown"
    under = [each for each in identity.items if each.id == object_id]
    uses = {use_of(each, identity.items, names, view.names) for each in under}
    worst = next((each for each in (STRANGE, AMBIGUOUS, IN_USE) if each in uses), None)
    if object_id == used:
        return worst or "missing"
    return worst or next(iter(sorted(uses)), EMPTY)


def _last_rotation(storage: Path, view: View) -> LastRotation | None:
    """Give the rotation that ended last. One that is pending has not, whatever was reported, before it is proved."""
    pending = view.rotation.rotation_id if view.rotation and view.rotation.step < PROVED else None
    try:
        entries = History(storage / FOLDER).read()
    except OSError:
        entries = []
    ends = [each for each in entries if each.event == COMPLETED and each.rotation_id != pending]
    if ends:
        last = ends[-1]
        return LastRotation(last.rotation_id, last.time, last.success, last.details)
    names = completed.rotation_ids(storage)
    return LastRotation(names[0], None, success=True) if names else None


def _running(storage: Path) -> str | None:
    try:
        found = holder(storage.stat())
    except OSError:
        return None
    return found if found.startswith("process ") else None  # else nobody that /proc/locks knows


# For people


def lines(status: Status, width: int | None) -> Iterator[str]:
    """Give the lines for a console of that width."""
    for name, text in _facts(status):
        yield from hanging(f"{name:{_NAME_WIDTH}}", text, width)


def _facts(status: Status) -> Iterator[tuple[str, str]]:
    identity = status.identity
    yield "identity", _where(identity)
    if identity.certificate is not None:
        yield from _certificate_facts(identity.certificate, status.now)
    if identity.problem:
        yield "problem", identity.problem
    if identity.pin is not None:
        # The token's own count: whether p11.pass is the PIN shows only where it is tried.
        yield "PIN", "no attempt at it is lost" if identity.pin == "good" else identity.pin
    for kind in ("key", "certificate"):
        slots = [f"{each.id} {each.use}" for each in status.slots if each.kind == kind]
        if slots:
            yield _SLOTS[kind], ", ".join(slots)
    yield "last rotation", _last_words(status.last)
    yield "pending", "; ".join(_pending_words(status.view))
    if status.view.pending is not None and status.view.pending.waiting is not None:
        waiting = status.view.pending.waiting
        yield "waits for", f"{waiting.what}: {waiting.reason}" if waiting.what else waiting.reason
        yield "not before", waiting.until or "the daemon tries it again by itself"
    yield "events", "unknown" if (count := undelivered(status.view)) is None else f"{count} not delivered yet"
    if status.running:
        yield "running", status.running


def _where(identity: Identity) -> str:
    if identity.names is None:
        return "not known"
    place = "files"
    if identity.source == TOKEN:
        place = f"token {identity.token.label}, module {identity.token.module}" if identity.token else "a token"
    return f"key {identity.names.key}, certificate {identity.names.certificate} ({place})"


def _certificate_facts(certificate: "x509.Certificate", now: datetime) -> Iterator[tuple[str, str]]:
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    days = (end - now).days
    yield "subject", certificate.subject.rfc4514_string()
    yield "serial", serial(certificate)
    yield "issuer", certificate.issuer.rfc4514_string()
    left = f"{days} days left" if days >= 0 else f"ENDED {-days} days ago"
    if now < begin:
        left = f"not valid yet: the clock shows {now:%Y-%m-%d %H:%M} UTC"
    yield "valid", f"{begin:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC, {left}"


def serial(certificate: "x509.Certificate") -> str:
    """Give the serial number as openssl(1) does: whole bytes, in hexadecimal."""
    number = certificate.serial_number
    return number.to_bytes((number.bit_length() + 7) // 8 or 1).hex()


def _last_words(last: LastRotation | None) -> str:
    if last is None:
        return "none that is known here"
    time = f", {last.time.replace('T', ' ').removesuffix('Z')} UTC" if last.time else ""
    if last.success:
        return f"{last.rotation_id}: complete{time}"
    return f"{last.rotation_id}: failed{time}: {last.details or 'no reason is known'}"


def _pending_words(view: View) -> Iterator[str]:
    pending = view.pending
    if view.left_by_fioconfig:
        yield "a rotation that fioconfig left: the next call takes it over"
    if view.problem is not None:
        yield f"unknown: {view.problem}"
    elif pending is None or pending.rotation_id is None:
        if not view.left_by_fioconfig:
            yield "no rotation"
    else:
        if view.rotation is not None and view.rotation.rollback is not None:
            yield f"rotation {pending.rotation_id}: goes back to the old identity ({view.rotation.rollback})"
        else:
            yield f"rotation {pending.rotation_id}: {_step_words(pending.step, begun=view.rotation is not None)}"
        if pending.refused:
            yield f"refused: {pending.refused}"
            yield "correct that, then `renew-client-cert resume`, or `renew-client-cert abort`"


def _step_words(step: int, *, begun: bool) -> str:
    if not begun:
        return "asked for, not begun"
    special = {
        SWITCHED: "switched, but the gateway has not taken the new certificate yet",
        PROVED: "taken by the gateway, its users are not told yet",
        ANNOUNCED: "in use, only tidying up is left to the next call",
    }
    return special.get(step, f"{step} of {SWITCHED} steps done")


def undelivered(view: View) -> int | None:
    """Count the events that the gateway has not taken; None where the journal cannot be read."""
    if view.problem is not None:
        return None
    return view.pending.undelivered if view.pending else 0
