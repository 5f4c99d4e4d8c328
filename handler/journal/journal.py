"""The journal on disk: every fact is written before anything follows from it.

`STORAGE_DIR/renew-client-cert/journal` exists while something is pending: a rotation, a request for one, a kept
identity, or undelivered events. Each change is one record, appended and flushed (records.py), so that a step and its
event stay together. It never holds a private key or a PIN.

Three files lie beside it. `pending` (empty) exists while the daemon has something to do, which does not include a
refused rotation. `rotation.json` holds a version that 0.1.0 refuses, in case of a downgrade. `history.jsonl` is for
people.
"""

import contextlib
import json
import logging
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import EllipsisType
from typing import Any

from handler.device.request import RotationRequest
from handler.device.storage import FOLDER, atomic_write, make_folder, remove, remove_whatever
from handler.errors import RequestRefusedError, describe, until
from hsm.errors import TokenError

from .decoding import MalformedError
from .events import Event, limited, says_the_same, withdraws
from .history import History
from .pending import (
    BROKEN,
    EARLIER,
    GUARD,
    JOURNAL,
    LEFT,
    MARKER,
    MAX_ATTEMPTS,
    MAX_REASON,
    VERSION,
    Waiting,
    summary,
)
from .records import append, replace_all, whole_length
from .rotation_state import Content, Kept, RotationState, came_further
from .waits import kind_of

log = logging.getLogger(__name__)

MAX_GROWTH = 512 * 1024
"""Bytes after which one record with the same content replaces all records."""


@dataclass(frozen=True)
class Facts:
    """What the journal says; the field names are those of its records."""

    device: str = ""
    """The device's id, for the daemon's jitter."""
    rotation: RotationState | None = None
    """The pending rotation."""
    requested: RotationRequest | None = None
    """The rotation to start when nothing else is pending."""
    waiting: Waiting | None = None
    """Why the last call could not continue."""
    kept: Kept | None = None
    """The rotation that was rolled back and whose identity is kept."""
    events: list[Event] = field(default_factory=list)
    """The undelivered events, oldest first."""


class Journal:
    """The journal in STORAGE_DIR. Thread-safe, because events are delivered beside the rotation."""

    def __init__(self, storage: Path) -> None:
        self.facts = Facts()
        self.folder = storage / FOLDER
        self.aside = self.folder / "config.encrypted"
        """The copy of config.encrypted for the new key, until the switch."""
        self.broken, self.refused = self.folder / BROKEN, self.folder / LEFT
        """Where an unreadable journal is set aside (lost_journal.py): first as `broken`; as `refused` if the repair was
        refused, so that only a person retries it."""
        self.history = History(self.folder)
        self._path, self._earlier, self._marker = (self.folder / each for each in (JOURNAL, EARLIER, MARKER))
        self._lock = threading.Lock()
        self._length = 0  # bytes of the file that hold whole records
        self._written = Facts()  # what these say

    def load(self) -> None:
        """Read the journal. A damaged one is set aside: sota.toml still names a whole identity.

        Raises LaterJournalError, RequestRefusedError if its folder is none, OSError.
        """
        if not self.folder.is_dir() and (self.folder.exists() or self.folder.is_symlink()):
            raise RequestRefusedError(f"{self.folder} is not a folder, but the journal needs it: remove it")
        try:
            content = Content.load(self.folder.parent)
            self._length = whole_length(self._path)
        except MalformedError as error:
            damaged = self._path if self._path.exists() else self._earlier
            log.warning("%s is damaged (%s): setting it aside as %s", damaged, error, self.broken.name)
            remove_whatever(self.broken)
            damaged.replace(self.broken)
            return
        if content is None:
            self._remove_guard()
            return
        pending = content.pending
        self.facts = Facts(
            pending.device, content.rotation, content.requested, pending.waiting, content.kept, content.events
        )
        self._written = self.facts if self._length else Facts()

    def name_device(self, device: str) -> None:
        """Store the device's id with the next record."""
        with self._lock:
            self.facts = replace(self.facts, device=device)

    def record(
        self,
        rotation: RotationState | None,
        *events: Event,
        taken: bool = False,
        keep: Kept | EllipsisType | None = ...,
        kind: str = "",
    ) -> None:
        """Write the state of the rotation (None: none is pending) and new events, in one record.

        `taken`: the rotation is the requested one. `keep`: the new kept identity, if that changes. `kind`: `Entry.kind`
        of the events. Raises OSError.
        """
        with self._lock:
            facts = self.facts
            left = [each for each in facts.events if not any(withdraws(new, each) for new in events)]
            left += [each for each in events if not (left and says_the_same(each, left[-1]))]
            facts = replace(facts, rotation=rotation, events=limited(left))
            if rotation is not self.facts.rotation and came_further(rotation, self.facts.rotation):
                facts = replace(facts, waiting=None)
            if taken:
                facts = replace(facts, requested=None)
            if not isinstance(keep, EllipsisType):
                facts = replace(facts, kept=keep)
            self._write(facts)
        self.history.append(events, kind)

    def request(self, requested: RotationRequest | None) -> None:
        """Store the rotation to start when nothing else is pending. Raises OSError."""
        with self._lock:
            if requested != self.facts.requested:
                self._write(replace(self.facts, requested=requested))

    def wait(self, error: Exception) -> None:
        """Store why this call could not continue, if something is pending. Raises OSError."""
        with self._lock:
            facts = self.facts
            if self._is_due(facts) or facts.events:
                attempts = 1 + (facts.waiting.attempts if facts.waiting else 0)
                reason = describe(error)[:MAX_REASON]
                label = error.label if isinstance(error, TokenError) else None
                # Only the first step contacts the EST server, and only that.
                enrols = facts.rotation is not None and (facts.rotation.step == 0 or facts.rotation.certificate is None)
                kind = kind_of(error, enrols=enrols)
                waiting = Waiting(reason, until(error), min(attempts, MAX_ATTEMPTS), kind, label)
                self._write(replace(facts, waiting=waiting))

    def leave(self, rotation: RotationState) -> None:
        """Treat a rotation that ends like one whose journal was lost: its key may still be needed. Raises OSError."""
        make_folder(self.folder)
        remove_whatever(self.broken)
        atomic_write(self.broken, json.dumps(asdict(rotation), indent=1).encode(), mode=0o600)

    def undelivered(self) -> list[Event]:
        """Return the undelivered events, oldest first."""
        return list(self.facts.events)

    def delivered(self, events: Sequence[Event]) -> None:
        """Forget delivered events. Raises OSError.

        Durable only with the next record: after a power loss they are sent again, with the same id.
        """
        gone = {event["id"] for event in events}
        with self._lock:
            left = [event for event in self.facts.events if event["id"] not in gone]
            self._write(replace(self.facts, events=left), durable=False)

    def settle_marker(self) -> None:
        """Create or remove the daemon's marker; a power cut can have left it wrong. Raises OSError."""
        if self._is_due(self.facts):
            self._mark()
        else:
            remove(self._marker)

    def _is_due(self, facts: Facts) -> bool:
        return summary(asdict(facts)).due or (facts.rotation is None and self.broken.exists())

    def _mark(self) -> None:
        if not self._marker.exists():
            make_folder(self.folder)
            self._marker.touch(0o600)

    def _write(self, facts: Facts, *, durable: bool = True) -> None:
        due = self._is_due(facts)
        if due:  # first: an extra marker does no harm, a missing one does
            self._mark()
        if not (facts.rotation or facts.requested or facts.kept or facts.events):
            facts = replace(facts, waiting=None)
            # First, so that after a failure the next record makes a new file.
            self._length, self._written = 0, Facts()
            remove(self._path)
            self._remove_guard()
        else:
            self._append(facts, durable=durable)
        self.facts = facts
        if not due:
            remove(self._marker)

    def _remove_guard(self) -> None:
        """Remove the file that keeps 0.1.0 away. Raises OSError."""
        try:
            self._earlier.unlink(missing_ok=True)
        except IsADirectoryError:
            remove_whatever(self._earlier)

    def _append(self, facts: Facts, *, durable: bool) -> None:
        """Append the changes as one record. After an OSError the last good record still counts."""
        record = _changes(self._written, facts)
        if not record:
            return
        if 0 < self._length <= MAX_GROWTH:
            self._length = append(self._path, record, at=self._length, durable=durable)
        else:
            make_folder(self.folder)
            self._length = replace_all(self._path, {"version": VERSION, **_changes(Facts(), facts)})
            with contextlib.suppress(OSError):  # only a downgraded program reads it
                self._earlier.touch(0o600)
                self._earlier.write_bytes(GUARD)
        self._written = facts


def _changes(before: Facts, after: Facts) -> dict[str, Any]:
    """Return the record (records.py) that leads from one content to another; {} if they are equal."""
    old, new = asdict(before), asdict(after)
    known, left = ({event["id"]: event for event in events} for events in (old.pop("events"), new.pop("events")))
    record = {name: value for name, value in new.items() if old[name] != value}
    if added := [event for event_id, event in left.items() if event_id not in known]:
        record["add"] = added
    if gone := sorted(known.keys() - left.keys()):
        record["gone"] = gone
    return record
