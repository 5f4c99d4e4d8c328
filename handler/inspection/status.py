"""What is in use and what is pending, read for those who only look. docs/status.md.

It takes no lock, needs no network, and leaves the PIN alone wherever the token shows its certificates without it.
"""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from handler.device import completed_rotations as completed
from handler.device.configuration.configuration import TOKEN, Configuration
from handler.device.keystore import IdentityNames
from handler.device.lock import holder
from handler.device.request import Overrides
from handler.device.storage import FOLDER
from handler.inspection.effective_request import EffectiveRequest
from handler.inspection.identity import Identity, read_identity
from handler.journal.history import History
from handler.journal.pending import COMPLETED
from handler.journal.rotation_state import PROVED
from handler.journal.snapshot import Snapshot

from .objects import AMBIGUOUS, IN_USE, STRANGE, use_of

if TYPE_CHECKING:
    from cryptography import x509

EMPTY = "empty"


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
    view: Snapshot
    odd: tuple[str, ...]
    """What is odd about the configuration's files, though it hinders nothing."""
    running: str | None
    """Who holds the device's lock, where somebody does."""


def read_status(configured: Configuration, request_file: Path, *, named: bool) -> Status:
    """Look. Raises nothing that is foreseeable."""
    storage = configured.storage
    identity = read_identity(configured)
    if identity.source == TOKEN and identity.problem is None:  # it shows its certificate without the PIN
        identity = replace(identity, problem=configured.value("p11.pass").problem)
    view = Snapshot.of(storage)
    return Status(
        now=datetime.now(UTC),
        storage=storage,
        identity=identity,
        slots=_slots(request_file, identity, view, named=named),
        last=None if storage is None else _last_rotation(storage, view),
        view=view,
        odd=tuple(configured.odd),
        running=None if storage is None else holder(storage),
    )


def _slots(request_file: Path, identity: Identity, view: Snapshot, *, named: bool) -> tuple[Slot, ...]:
    names = identity.names
    if identity.source != TOKEN or identity.token is None or names is None:
        return ()
    asked = EffectiveRequest.of(request_file, Overrides(), view, named=named, token=True)
    places = (("key", asked.key_ids, names.key), ("certificate", asked.certificate_ids, names.certificate))
    return tuple(
        Slot(kind, each, _use(identity, names, view, each, kind))
        for kind, ids, used in places
        for each in sorted({*ids, used})
    )


def _use(identity: Identity, names: IdentityNames, view: Snapshot, object_id: str, kind: str) -> str:
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


def _last_rotation(storage: Path, view: Snapshot) -> LastRotation | None:
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


def undelivered(view: Snapshot) -> int | None:
    """Count the events that the gateway has not taken; None where the journal cannot be read."""
    if view.problem is not None:
        return None
    return view.pending.undelivered if view.pending else 0


def serial(certificate: "x509.Certificate") -> str:
    """Give the serial number as openssl(1) does: whole bytes, in hexadecimal."""
    number = certificate.serial_number
    return number.to_bytes((number.bit_length() + 7) // 8 or 1).hex()
