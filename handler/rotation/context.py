"""What every part of a rotation works with, and what a call remembers; built once per call."""

from dataclasses import dataclass, field
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric import ec

from handler.device.config_encrypted import LocalConfig
from handler.device.current_target import current_target
from handler.device.device import Device
from handler.device.keystore import IdentityNames
from handler.device.request import RotationRequest
from handler.device.services import Services
from handler.errors import PendingError, RenewalError
from handler.journal import rotation_state
from handler.journal.events import Event, EventFactory
from handler.journal.journal import Journal
from handler.journal.rotation_state import RotationState
from handler.servers.connections import Connections
from handler.servers.delivery import Delivery
from handler.servers.http import Limits
from handler.servers.transport import Deadline
from hsm.certificate import Certificate

from .found import Call, Kept, Sight, Taken, Way, Wish
from .rules import Action


class Progress(Protocol):
    """Receives the progress as it happens; the console shows it."""

    def step_started(self, number: int, name: str) -> None:
        """A step starts."""

    def step_done(self) -> None:
        """The step is done."""

    def step_failed(self, reason: str) -> None:
        """The step failed."""

    def completed(self, rotation_id: str, names: IdentityNames, certificate: Certificate) -> None:
        """The rotation is complete; `names` is the identity in use."""


@dataclass
class Memory:
    """The purpose of a call, what it has done, and the results; a power cut loses it, so nothing here has to last."""

    wish: Wish
    request: RotationRequest | None = None
    """The request of `rotate`, until a rotation for it is pending."""
    asked: str | None = None
    """The ROTATIONID that this call is for, if it names one."""
    refused: tuple[str, Exception] | None = None
    """The ROTATIONID of a request that was refused before its rotation started, and why."""
    early: PendingError | None = None
    """Why a server must not be contacted yet."""
    call: Call = Call.GOES_ON
    failure: Exception | None = None
    """The first failure, which ends the call."""
    refused_before: Exception | None = None
    """Why the rotation was refused that rolls back in favour of another one."""
    way: Way = Way.UNKNOWN
    why_closed: str = ""
    new: Sight = Sight.UNKNOWN
    old: Taken = Taken.UNKNOWN
    said: RenewalError | None = None
    """The gateway's answer to the new certificate."""
    old_said: RenewalError | None = None
    """The gateway's answer to the old certificate."""
    unreported: RenewalError | None = None
    """Why the gateway did not accept the events with the new certificate."""
    breaks: int = 0
    """Consecutive connections that broke with the new certificate while the old one was accepted."""
    rounds: int = 0
    """Rounds without a clear answer."""
    kept: Kept = Kept.UNWATCHED
    """What this call found out about the kept identity."""
    hooks: str | None = None
    """Which hooks failed, "" for none; None if they did not run for this rotation."""
    noted: bool = False
    told: bool = False
    """Whether this call has restarted the users of the key."""
    warned: bool = False
    """Whether this call has warned that it cannot stop fioconfig."""
    delivered: bool = False
    """Whether this call has tried to deliver the waiting events."""
    changed: bool = False
    """Whether there was something to give up or to repair."""
    done: set[Action] = field(default_factory=set)


@dataclass
class Context:
    """The context of one call.

    `by_fioconfig`: fioconfig waits for this call and exits because of its exit status, so it is not stopped or started
    here. The old key outlives the call: if the call is killed, fioconfig stores a configuration for that key.
    """

    device: Device
    progress: Progress
    services: Services
    limits: Limits
    by_fioconfig: bool
    memory: Memory = field(default_factory=lambda: Memory(Wish.RESUME))
    beside: Delivery | None = None
    """Delivers events beside the steps (deliveries.py)."""
    settled: bool = False
    """Whether this call has encrypted config.encrypted to the new key."""

    def __post_init__(self) -> None:
        """Build what depends on the other fields."""
        self.journal = Journal(self.device.storage)
        self.deadline = Deadline(self.limits.total)
        self.connections = Connections(self.device, self.deadline, self.limits)
        self.local_config = LocalConfig(self.device.config_encrypted, self.journal.aside)
        self._target = current_target(self.device.storage)
        self._named = self.device.names_in_use()

    @property
    def switched(self) -> bool:
        """Whether this call has switched the key in either direction, or config.encrypted: fioconfig has to restart.

        By evidence: a signal may arrive right after the replacement. Switched and switched back counts as unchanged.
        """
        return self.settled or self.device.names_in_use(self._named) != self._named

    @property
    def rotation(self) -> RotationState:
        """The pending rotation; the caller knows that there is one."""
        state = self.journal.facts.rotation
        assert state is not None  # noqa: S101 - the rules make sure of it
        return state

    @property
    def kept(self) -> rotation_state.Kept:
        """The kept rotation; the caller knows that there is one."""
        kept = self.journal.facts.kept
        assert kept is not None  # noqa: S101 - the rules make sure of it
        return kept

    def record(self, state: RotationState, *events: Event) -> RotationState:
        """Journal the state of the pending rotation, and new events; return that state. Raises OSError."""
        self.journal.record(state, *events)
        return state

    def events(self, rotation_id: str) -> EventFactory:
        """Return the factory of that rotation's events."""
        return EventFactory(rotation_id, self._target)

    def key(self, names: IdentityNames) -> ec.EllipticCurvePrivateKey:
        """Load the private key of an identity. Raises RefusedError, hsm.errors.TokenError."""
        return self.device.store_of(names).key(names.key)
