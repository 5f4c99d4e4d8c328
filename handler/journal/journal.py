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
from dataclasses import asdict
from pathlib import Path
from types import EllipsisType
from typing import Any

from handler.device.request import RotationRequest
from handler.device.storage import FOLDER, atomic_write, make_folder, remove, remove_whatever
from handler.errors import RequestRefusedError, describe, until
from hsm.errors import TokenError

from .decoding import MalformedError
from .due import is_due
from .events import Event, limited, says_the_same
from .history import History
from .pending import (
    BROKEN,
    EARLIER,
    EVENTS,
    GUARD,
    JOURNAL,
    LEFT,
    MARKER,
    MAX_ATTEMPTS,
    MAX_REASON,
    MENDED,
    VERSION,
    Waiting,
    is_there,
)
from .records import append, replace_all, whole_length
from .rotation_state import Content, Kept, RotationState, came_further
from .waits import kind_of

log = logging.getLogger(__name__)

MAX_GROWTH = 512 * 1024
"""Bytes after which one record with the same content replaces all records."""


class Journal:
    """The journal in STORAGE_DIR. Thread-safe, because events are delivered beside the rotation."""

    def __init__(self, storage: Path) -> None:
        self.folder = self._folder = storage / FOLDER
        self.aside = self._folder / "config.encrypted"
        """The copy of config.encrypted for the new key, until the switch."""
        self.broken, self.refused, self.mended = (self._folder / each for each in (BROKEN, LEFT, MENDED))
        """Where an unreadable journal is set aside (lost_journal.py): first as `broken`; as `refused` if the repair was
        refused, so that only a person retries it; as `mended` when the key in use can read everything."""
        self._path = self._folder / JOURNAL
        self._earlier = self._folder / EARLIER
        self._marker = self._folder / MARKER
        self.history = History(self._folder)
        self._lock = threading.Lock()
        self._rotation: RotationState | None = None
        self._requested: RotationRequest | None = None
        self._kept: Kept | None = None
        self._events: list[Event] = []
        self._waiting: Waiting | None = None
        self._length = 0  # bytes of the file that hold whole records
        self._written: dict[str, Any] = {}
        self._event_ids: set[str] = set()
        self.device = ""
        """The device's id, for the daemon's jitter; stored with the next change."""

    def exists(self) -> bool:
        """Whether anything is pending."""
        return is_there(self._folder.parent)

    @property
    def rotation(self) -> RotationState | None:
        """The pending rotation, if any."""
        return self._rotation

    @property
    def requested(self) -> RotationRequest | None:
        """The rotation to start when nothing else is pending, if any."""
        return self._requested

    @property
    def kept(self) -> Kept | None:
        """The rotation that was rolled back and whose identity is kept, if any."""
        return self._kept

    @property
    def waiting(self) -> Waiting | None:
        """Why the last call could not continue, if it could not."""
        return self._waiting

    @property
    def due(self) -> bool:
        """Whether the daemon has something to do."""
        return self._is_due(self._rotation, self._requested, self._kept, self._events)

    def _is_due(
        self,
        rotation: RotationState | None,
        requested: RotationRequest | None,
        kept: Kept | None,
        events: Sequence[Event],
    ) -> bool:
        offered = bool(events) and not (self._waiting and self._waiting.kind == EVENTS)
        since = kept.since if kept else None
        due = is_due(rotation, requested=requested is not None, offered=offered, kept_since=since)
        return due or (rotation is None and self.broken.exists())

    def load(self) -> None:
        """Read the journal. A damaged one is set aside: sota.toml still names a whole identity.

        Raises LaterJournalError, RequestRefusedError if its folder is none, OSError.
        """
        if not self._folder.is_dir() and (self._folder.exists() or self._folder.is_symlink()):
            raise RequestRefusedError(f"{self._folder} is not a folder, but the journal needs it: remove it")
        try:
            content = Content.load(self._folder.parent)
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
        self.device = content.pending.device
        with self._lock:
            self._rotation, self._requested, self._events = content.rotation, content.requested, content.events
            self._kept = content.kept
            self._waiting = content.pending.waiting
            self._written = self._content() if self._length else {}
            self._event_ids = {event["id"] for event in self._events} if self._length else set()

    def record(
        self,
        rotation: RotationState | None,
        *events: Event,
        without: str | None = None,
        taken: bool = False,
        keep: Kept | EllipsisType | None = ...,
        kind: str = "",
    ) -> None:
        """Write the state of the rotation (None: none is pending) and new events, in one record.

        `without`: withdraw an undelivered success of this event type. `taken`: the rotation is the requested one.
        `keep`: the new kept identity, if that changes. `kind`: `Entry.kind` of the events. Raises OSError.
        """
        with self._lock:
            before = self._kept
            if not isinstance(keep, EllipsisType):
                self._kept = keep
            kept = [event for event in self._events if not self._is_withdrawn(event, without)]
            if rotation is not self._rotation and came_further(rotation, self._rotation):
                self._waiting = None
            new = [each for each in events if not (kept and says_the_same(each, kept[-1]))]
            try:
                self._replace(rotation, None if taken else self._requested, limited([*kept, *new]))
            except BaseException:
                self._kept = before
                raise
        self.history.append(events, kind)

    def leave(self, rotation: RotationState) -> None:
        """Treat a rotation that ends like one whose journal was lost: its key may still be needed. Raises OSError."""
        make_folder(self._folder)
        remove_whatever(self.broken)
        atomic_write(self.broken, json.dumps(asdict(rotation), indent=1).encode(), mode=0o600)

    def _is_withdrawn(self, event: Event, without: str | None) -> bool:
        mine = self._rotation is not None and event["event"]["correlationId"] == self._rotation.rotation_id
        return mine and event["eventType"]["id"] == without and event["event"]["success"]

    def request(self, requested: RotationRequest | None) -> None:
        """Store the rotation to start when nothing else is pending. Raises OSError."""
        with self._lock:
            if requested != self._requested:
                self._replace(self._rotation, requested, self._events)

    def wait(self, error: Exception) -> None:
        """Store why this call could not continue, if something is pending. Raises OSError."""
        with self._lock:
            if self.due or self._events:
                attempts = 1 + (self._waiting.attempts if self._waiting else 0)
                reason = describe(error)[:MAX_REASON]
                label = error.label if isinstance(error, TokenError) else None
                # Only the first step contacts the EST server, and only that.
                enrols = self._rotation is not None and (self._rotation.step == 0 or self._rotation.certificate is None)
                kind = kind_of(error, enrols=enrols)
                self._waiting = Waiting(reason, until(error), min(attempts, MAX_ATTEMPTS), kind, label)
                self._replace(self._rotation, self._requested, self._events)

    def settle_marker(self) -> None:
        """Create or remove the daemon's marker; a power cut can have left it wrong. Raises OSError."""
        if not self.due:
            remove(self._marker)
        elif not self._marker.exists():
            make_folder(self._folder)
            self._marker.touch(0o600)

    def undelivered(self) -> list[Event]:
        """Return the undelivered events, oldest first."""
        with self._lock:
            return list(self._events)

    def delivered(self, events: Sequence[Event]) -> None:
        """Forget delivered events. Raises OSError.

        Durable only with the next record: after a power loss they are sent again, with the same id.
        """
        gone = {event["id"] for event in events}
        with self._lock:
            left = [event for event in self._events if event["id"] not in gone]
            self._replace(self._rotation, self._requested, left, durable=False)

    def _replace(
        self,
        rotation: RotationState | None,
        requested: RotationRequest | None,
        events: list[Event],
        *,
        durable: bool = True,
    ) -> None:
        due = self._is_due(rotation, requested, self._kept, events)
        if due and not self._marker.exists():  # first: an extra marker does no harm, a missing one does
            make_folder(self._folder)
            self._marker.touch(0o600)
        if rotation is None and requested is None and self._kept is None and not events:
            self._waiting = None
            # First, so that after a failure the next record makes a new file.
            self._length, self._written, self._event_ids = 0, {}, set()
            remove(self._path)
            self._remove_guard()
            self._rotation, self._requested, self._events = rotation, requested, events
        else:
            before = self._rotation, self._requested, self._events
            self._rotation, self._requested, self._events = rotation, requested, events
            try:
                self._append(durable=durable)
            except BaseException:
                self._rotation, self._requested, self._events = before
                raise
        if not due:
            remove(self._marker)

    def _remove_guard(self) -> None:
        """Remove the file that keeps 0.1.0 away. Raises OSError."""
        try:
            self._earlier.unlink(missing_ok=True)
        except IsADirectoryError:
            remove_whatever(self._earlier)

    def _append(self, *, durable: bool) -> None:
        """Append the changes as one record. After an OSError the last good record still counts."""
        content, ids = self._content(), {event["id"] for event in self._events}
        record: dict[str, Any] = {key: value for key, value in content.items() if self._written.get(key) != value}
        if added := [event for event in self._events if event["id"] not in self._event_ids]:
            record["add"] = added
        if gone := sorted(self._event_ids - ids):
            record["gone"] = gone
        if not record:
            return
        if self._length == 0:
            make_folder(self._folder)
            self._length = replace_all(self._path, {"version": VERSION, **record})
            with contextlib.suppress(OSError):  # only a downgraded program reads it
                self._earlier.touch(0o600)
                self._earlier.write_bytes(GUARD)
        elif self._length > MAX_GROWTH:
            self._length = replace_all(self._path, {"version": VERSION, **content, "add": self._events})
        else:
            self._length = append(self._path, record, at=self._length, durable=durable)
        self._written, self._event_ids = content, ids

    def _content(self) -> dict[str, Any]:
        return {
            "device": self.device,
            "rotation": None if self._rotation is None else asdict(self._rotation),
            "requested": None if self._requested is None else asdict(self._requested),
            "waiting": None if self._waiting is None else asdict(self._waiting),
            "kept": None if self._kept is None else asdict(self._kept),
        }
