"""What is in use and what is pending, read without changing anything. docs/status.md.

It takes no lock, needs no network, and leaves the PIN alone wherever the token shows its certificates without it.
"""

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from handler.backoff import Backoff
from handler.device.configuration.configuration import TOKEN, Configuration
from handler.device.keystore import IdentityNames
from handler.device.lock import holder
from handler.device.request import Overrides
from handler.device.storage import FOLDER
from handler.journal.pending import EARLIER, JOURNAL, Pending
from handler.journal.rotation_state import ANNOUNCED
from handler.journal.snapshot import Snapshot
from handler.journal.waits import delay_of

from .anchors import Anchor, read_anchors
from .effective_request import EffectiveRequest
from .identity import Identity, read_identity
from .objects import AMBIGUOUS, IN_USE, STRANGE, use_of
from .past import Past, read_past
from .units import Unit, read_units

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
class Status:
    """Everything that is shown."""

    now: datetime
    storage: Path | None
    identity: Identity
    slots: tuple[Slot, ...]
    past: Past
    view: Snapshot
    odd: tuple[str, ...]
    """What is odd about the configuration's files, though it hinders nothing."""
    running: str | None
    """Which process holds the device's lock, if any."""
    units: dict[str, Unit] | None
    """The program's own units; None if systemd does not run here."""
    anchors: tuple[Anchor, ...]
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

    @property
    def not_before(self) -> datetime | None:
        """The time (UTC) before which a retry makes no sense."""
        waiting = self.view.pending.waiting if self.view.pending else None
        return None if waiting is None or waiting.moment is None else datetime.fromtimestamp(waiting.moment, UTC)

    @property
    def undelivered(self) -> int | None:
        """The number of events that the gateway has not accepted; None if the journal cannot be read."""
        if self.view.problem is not None:
            return None
        return self.view.pending.undelivered if self.view.pending else 0


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
    past = read_past(storage, view)
    if past.since is None and storage and view.pending and view.pending.rotation_id:
        past = replace(past, since=_modified(storage / FOLDER / EARLIER))  # it comes and goes with the journal
    return Status(
        now=now,
        storage=storage,
        identity=identity,
        slots=_slots(request_file, identity, view, named=named),
        past=past,
        view=view,
        odd=tuple(configured.odd),
        running=holder(storage) if storage else None,
        units=read_units(),
        anchors=read_anchors(configured, identity.certificate, now),
        next_attempt=_next_attempt(storage, view.pending) if storage else None,
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
