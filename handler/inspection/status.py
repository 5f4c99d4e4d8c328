"""What is in use and what is pending, read without changing anything. docs/status.md.

It takes no lock, needs no network, and leaves the PIN alone wherever the token shows its certificates without it.
"""

import contextlib
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from handler.backoff import Backoff
from handler.device import completed_rotations as completed
from handler.device.configuration.configuration import TOKEN, Configuration
from handler.device.keystore import IdentityNames
from handler.device.lock import holder
from handler.device.request import Overrides
from handler.device.storage import FOLDER
from handler.inspection.anchors import Anchor, read_anchors
from handler.inspection.effective_request import EffectiveRequest
from handler.inspection.identity import Identity, read_identity
from handler.inspection.roll_back import RollBack, read_roll_back
from handler.inspection.units import Unit, read_units
from handler.journal.events import STARTED
from handler.journal.history import History
from handler.journal.pending import COMPLETED, EARLIER, JOURNAL, Pending
from handler.journal.rotation_state import ANNOUNCED, PROVED
from handler.journal.snapshot import Snapshot
from handler.journal.waits import delay_of

from .objects import AMBIGUOUS, IN_USE, STRANGE, use_of

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
    roll_back: RollBack | None
    view: Snapshot
    odd: tuple[str, ...]
    """What is odd about the configuration's files, though it hinders nothing."""
    running: str | None
    """Which process holds the device's lock, if any."""
    units: dict[str, Unit] | None
    """The program's own units; None if systemd does not run here."""
    anchors: tuple[Anchor, ...]
    since: datetime | None
    """When the rotation became pending."""
    next_attempt: datetime | None
    """When the daemon tries again, if it runs."""

    @property
    def pending(self) -> Pending | None:
        """The rotation that is not finished; one that is in use and only to be tidied up is."""
        pending = self.view.pending
        return None if pending is None or pending.rotation_id is None or pending.step == ANNOUNCED else pending

    @property
    def due(self) -> bool:
        """Whether the daemon has something to do."""
        return self.view.pending is not None and self.view.pending.due


def read_status(configured: Configuration, request_file: Path, *, named: bool) -> Status:
    """Look. Raises nothing that is foreseeable."""
    storage = configured.storage
    identity = read_identity(configured)
    if identity.source == TOKEN and identity.problem is None:  # it shows its certificate without the PIN
        identity = replace(identity, problem=configured.value("p11.pass").problem)
    now, view = datetime.now(UTC), Snapshot.of(storage)
    if identity.problem is None and identity.certificate and identity.certificate.has_ended(now):
        end = identity.certificate.shown_end
        ended = f"the certificate in use ended {end}: servers refuse it; register the device again"
        identity = replace(identity, problem=ended)
    return Status(
        now=now,
        storage=storage,
        identity=identity,
        slots=_slots(request_file, identity, view, named=named),
        last=None if storage is None else _last_rotation(storage, view),
        roll_back=None if storage is None else read_roll_back(storage, view),
        view=view,
        odd=tuple(configured.odd),
        running=None if storage is None else holder(storage),
        units=read_units(),
        anchors=read_anchors(configured, identity.certificate, now),
        since=None if storage is None else _since(storage, view.pending),
        next_attempt=None if storage is None else _next_attempt(storage, view.pending),
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
    """Give the rotation that ended last. A pending one has not ended before it is proved, even if it was reported."""
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


def _since(storage: Path, pending: Pending | None) -> datetime | None:
    """Say when the pending rotation began; if it is only requested, when the journal was made."""
    if pending is None or pending.rotation_id is None:
        return None
    with contextlib.suppress(OSError, ValueError):
        for entry in reversed(History(storage / FOLDER).read()):
            if (entry.rotation_id, entry.event, entry.success) == (pending.rotation_id, STARTED, True):
                return datetime.fromisoformat(entry.time)
    return _modified(storage / FOLDER / EARLIER)  # it comes and goes with the journal


def _next_attempt(storage: Path, pending: Pending | None) -> datetime | None:
    """Say when the daemon tries again, as it reckons itself with its usual limits."""
    last = _modified(storage / FOLDER / JOURNAL)
    if pending is None or pending.problem or not pending.due or last is None:
        return None
    waiting = pending.waiting
    if waiting is None:
        return last
    asked = None if waiting.moment is None else max(0.0, waiting.moment - last.timestamp()) or None
    return last + timedelta(seconds=delay_of(pending, Backoff(), max(1, waiting.attempts), asked))


def _modified(path: Path) -> datetime | None:
    try:
        return datetime.fromtimestamp(path.stat().st_mtime, UTC)
    except (OSError, ValueError, OverflowError):
        return None


def undelivered(view: Snapshot) -> int | None:
    """Count the events that the gateway has not accepted; None if the journal cannot be read."""
    if view.problem is not None:
        return None
    return view.pending.undelivered if view.pending else 0
