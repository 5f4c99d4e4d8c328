"""What is known of a rotation, and its journal on disk.

`STORAGE_DIR/renew-client-cert/rotation.json` exists exactly while something is pending: a rotation, a request for one,
or events that the gateway has not taken. One atomic replacement holds them all, so that a step and its event are never
out of step. No private key and no PIN is ever in it.

Beside it, `pending` (empty) exists while the daemon has something to do: not for a rotation that was refused, which
stays in the journal until somebody asks for it. `history.jsonl` keeps what happened, for people.
"""

import base64
import json
import logging
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from cryptography import x509

from handler.device.keystore import IdentityNames
from handler.device.request import RotationRequest
from handler.device.storage import FOLDER, atomic_write, make_folder, remove, remove_whatever
from handler.errors import ClockError, OfflineError, PostponedError, describe, until
from handler.journal.events import Event
from hsm.errors import TokenError

from .decoding import MalformedError, read
from .history import History
from .pending import (
    BROKEN,
    CLOCK,
    COMPLETED,
    EST,
    GATEWAY,
    JOURNAL,
    LEFT,
    LOCKED,
    MARKER,
    MAX_ATTEMPTS,
    MAX_REASON,
    MENDED,
    NETWORK,
    TOKEN,
    VERSION,
    Pending,
    Waiting,
    events_of,
    is_due,
    load,
    summary,
)

log = logging.getLogger(__name__)

SWITCHED, PROVED, ANNOUNCED = 5, 6, 7
"""Values of `RotationState.step` (and LOCKED): sota.toml names the new key; the gateway has taken it; its users were
told, and only tidying up is left."""
MAX_EVENTS = 200
"""A gateway that takes no events for months must not fill the disk: failed attempts go first, the oldest of them."""


@dataclass(frozen=True)
class RotationState:
    """One rotation: what was asked, what was chosen, and how far it came (evidence decides where it can)."""

    request: RotationRequest
    old: IdentityNames
    new: IdentityNames
    step: int = 0
    """The last step that is done: 0 to 5, PROVED or ANNOUNCED."""
    public_key: str | None = None
    """The new key's SPKI, PEM."""
    csr: str | None = None
    """The CSR, base64 of DER: a retry sends the same one."""
    certificate: str | None = None
    """The issued certificate, PEM, once it passed the checks."""
    chain: tuple[str, ...] = ()
    """The other certificates of the EST answer, PEM: the issuer may be among them."""
    announced: bool = False
    """The gateway was asked to expect the new key, and may know it though its answer was lost."""
    config_digest: str | None = None
    """SHA-256 (hex) of the config.encrypted that the copy kept aside was made from."""
    fioconfig_stopped: bool = False
    """fioconfig.service was running and we stopped it: whoever goes on starts it again."""
    reported: bool = False
    """Its successful completion was journalled as an event: once that has left the journal, the gateway took it."""
    files_left: str | None = None
    """The device's files on the server may be for the old key, for this reason: they are moved after the proof."""
    rollback: str | None = None
    """The gateway refused the new certificate, for this reason: everything goes back."""
    refused: str | None = None
    """Ended in a refusal that somebody has to look at: not retried without being asked."""

    @property
    def rotation_id(self) -> str:
        """The ROTATIONID."""
        return self.request.rotation_id

    @property
    def locked(self) -> bool:
        """Whether the gateway may be locked until it sees the new key, so that this one must not be lost."""
        return self.step >= LOCKED or self.announced


@dataclass(frozen=True)
class Content:
    """All that a journal says; `pending` is the same in short."""

    pending: Pending
    rotation: RotationState | None
    requested: RotationRequest | None
    events: list[Event]

    @classmethod
    def load(cls, storage: Path) -> "Content | None":
        """Read the journal below the storage folder; None where nothing is pending.

        Raises typed.MalformedError, LaterJournalError, OSError.
        """
        data = load(storage)
        if data is None:
            return None
        pending = summary(data)
        rotation = None if data.get("rotation") is None else read(RotationState, data["rotation"], "rotation")
        requested = None if data.get("requested") is None else read(RotationRequest, data["requested"], "requested")
        if rotation is not None:
            _check_encoded(rotation)
        return cls(pending, rotation, requested, events_of(data))


def _check_encoded(rotation: RotationState) -> None:
    """Raise MalformedError where what is kept in base64 or PEM is none."""
    try:
        if rotation.csr is not None:
            x509.load_der_x509_csr(base64.b64decode(rotation.csr, validate=True))
        for pem in (rotation.certificate, *rotation.chain):
            if pem is not None:
                x509.load_pem_x509_certificate(pem.encode())
    except (ValueError, x509.InvalidVersion) as error:
        raise MalformedError(f"rotation: a CSR or certificate that is none: {error}") from error


class Journal:
    """The journal in STORAGE_DIR. Thread-safe: events are delivered beside the rotation."""

    def __init__(self, storage: Path) -> None:
        self._folder = storage / FOLDER
        self._path = self._folder / JOURNAL
        self._marker = self._folder / MARKER
        self._history = History(self._folder)
        self._lock = threading.Lock()
        self._rotation: RotationState | None = None
        self._requested: RotationRequest | None = None
        self._events: list[Event] = []
        self._waiting: Waiting | None = None
        self.device = ""
        """The device's id, for the daemon's jitter; kept with the next change."""

    @property
    def aside(self) -> Path:
        """Where config.encrypted waits, encrypted to the new key, until the switch."""
        return self._folder / "config.encrypted"

    @property
    def folder(self) -> Path:
        """The folder of the journal."""
        return self._folder

    @property
    def broken(self) -> Path:
        """Where a journal that cannot be read is set aside."""
        return self._folder / BROKEN

    @property
    def refused(self) -> Path:
        """Where it is while making readable what its rotation left was refused: nobody tries that unasked."""
        return self._folder / LEFT

    @property
    def mended(self) -> Path:
        """Where it is once all that its rotation left can be read with the key in use."""
        return self._folder / MENDED

    def exists(self) -> bool:
        """Whether anything is pending."""
        return self._path.exists()

    @property
    def rotation(self) -> RotationState | None:
        """The rotation that is pending, if any."""
        return self._rotation

    @property
    def requested(self) -> RotationRequest | None:
        """The rotation that is to begin once nothing else is pending, if any."""
        return self._requested

    @property
    def waiting(self) -> Waiting | None:
        """Why the last call could not go on, if it could not."""
        return self._waiting

    @property
    def due(self) -> bool:
        """Whether there is something that can be done without being asked."""
        return self._is_due(self._rotation, self._requested, self._events)

    def _is_due(
        self, rotation: RotationState | None, requested: RotationRequest | None, events: Sequence[Event]
    ) -> bool:
        due = is_due(rotation, requested=requested is not None, undelivered=bool(events))
        return due or (rotation is None and self.broken.exists())

    def load(self) -> None:
        """Read the journal. One that is broken is set aside: sota.toml still names a whole identity.

        Raises LaterJournalError, OSError.
        """
        try:
            content = Content.load(self._folder.parent)
        except MalformedError as error:
            log.warning("%s cannot be read (%s): set aside as %s", self._path, error, self.broken.name)
            remove_whatever(self.broken)
            self._path.replace(self.broken)
            return
        if content is None:
            return
        self.device = content.pending.device
        with self._lock:
            self._rotation, self._requested, self._events = content.rotation, content.requested, content.events
            self._waiting = content.pending.waiting

    def record(
        self, rotation: RotationState | None, *events: Event, without: str | None = None, taken: bool = False
    ) -> None:
        """Write the rotation as it is now (None: none is pending) and append events, in one atomic replacement.

        `without` names an event type of which an undelivered success of this rotation is withdrawn; `taken`: it is the
        rotation that was requested. Raises OSError.
        """
        with self._lock:
            kept = [event for event in self._events if not self._is_withdrawn(event, without)]
            if rotation is None or self._rotation is None or rotation.step != self._rotation.step:
                self._waiting = None  # it came further
            elif rotation.request.est_server != self._rotation.request.est_server:
                self._waiting = None  # it was another server that asked to come back later
            new = [each for each in events if not (kept and _says_the_same(each, kept[-1]))]
            self._replace(rotation, None if taken else self._requested, _limited([*kept, *new]))
        self._history.append(events)

    def leave(self, rotation: RotationState) -> None:
        """Leave a rotation that ends as one whose journal was lost: its key may be needed still. Raises OSError."""
        make_folder(self._folder)
        remove_whatever(self.broken)
        atomic_write(self.broken, json.dumps(asdict(rotation), indent=1).encode(), mode=0o600)

    def _is_withdrawn(self, event: Event, without: str | None) -> bool:
        mine = self._rotation is not None and event["event"]["correlationId"] == self._rotation.rotation_id
        return mine and event["eventType"]["id"] == without and event["event"]["success"]

    def request(self, requested: RotationRequest | None) -> None:
        """Remember the rotation that is to begin once nothing else is pending. Raises OSError."""
        with self._lock:
            if requested != self._requested:
                self._replace(self._rotation, requested, self._events)

    def wait(self, error: Exception) -> None:
        """Remember why this call could not go on, if there is something to go on with. Raises OSError."""
        with self._lock:
            if self.due:
                attempts = 1 + (self._waiting.attempts if self._waiting else 0)
                reason = describe(error)[:MAX_REASON]
                label = error.label if isinstance(error, TokenError) else None
                kind = self._kind(error)
                self._waiting = Waiting(reason, until(error), min(attempts, MAX_ATTEMPTS), kind, label)
                self._replace(self._rotation, self._requested, self._events)

    def _kind(self, error: Exception) -> str | None:
        """Say what an error has us wait for."""
        if isinstance(error, TokenError):
            return TOKEN
        if isinstance(error, OfflineError):
            return NETWORK
        if isinstance(error, PostponedError):  # only the first step asks the EST server, and nobody else
            enrols = self._rotation is not None and (self._rotation.step == 0 or self._rotation.certificate is None)
            return EST if enrols else GATEWAY
        # A time that no server asked for is that of a certificate's beginning.
        return CLOCK if isinstance(error, ClockError) or until(error) else None

    def settle_marker(self) -> None:
        """Make the marker for the daemon say what is true. A cut can have left it behind. Raises OSError."""
        if not self.due:
            remove(self._marker)
        elif not self._marker.exists():
            make_folder(self._folder)
            self._marker.touch(0o600)

    def undelivered(self) -> list[Event]:
        """Give the events that the gateway has not taken yet, oldest first."""
        with self._lock:
            return list(self._events)

    def delivered(self, events: Sequence[Event]) -> None:
        """Forget events that the gateway has taken. Raises OSError."""
        gone = {event["id"] for event in events}
        with self._lock:
            left = [event for event in self._events if event["id"] not in gone]
            self._replace(self._rotation, self._requested, left)

    def _replace(self, rotation: RotationState | None, requested: RotationRequest | None, events: list[Event]) -> None:
        due = self._is_due(rotation, requested, events)
        if due and not self._marker.exists():  # first: a marker too many wakes the daemon in vain, one too few never
            make_folder(self._folder)
            self._marker.touch(0o600)
        if rotation is None and requested is None and not events:
            self._waiting = None
            remove(self._path)
        else:
            make_folder(self._folder)
            content = {
                "version": VERSION,
                "device": self.device,
                "rotation": None if rotation is None else asdict(rotation),
                "requested": None if requested is None else asdict(requested),
                "waiting": None if self._waiting is None else asdict(self._waiting),
                "events": events,
            }
            atomic_write(self._path, json.dumps(content, indent=1).encode(), mode=0o600)
        if not due:
            remove(self._marker)
        self._rotation, self._requested, self._events = rotation, requested, events


def _says_the_same(event: Event, last: Event) -> bool:
    """Tell whether a failure is the one that was reported last, and that the gateway has not heard of yet."""
    return (
        event["eventType"] == last["eventType"]
        and event["event"] == last["event"]
        and not event["event"]["success"]
        and event["eventType"]["id"] != COMPLETED
    )


def _limited(events: list[Event]) -> list[Event]:
    """Leave out the failed attempts, oldest first, and then whatever is oldest, that are too many."""
    surplus = len(events) - MAX_EVENTS
    attempts = [each["id"] for each in events if not each["event"]["success"] and each["eventType"]["id"] != COMPLETED]
    gone = set(attempts[: max(0, surplus)])
    return [each for each in events if each["id"] not in gone][-MAX_EVENTS:]
