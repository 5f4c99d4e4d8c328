"""What every part of a rotation works with; built once per call."""

from dataclasses import dataclass, field
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric import ec

from handler.device.config_encrypted import LocalConfig
from handler.device.current_target import current_target
from handler.device.device import Device
from handler.device.keystore import IdentityNames
from handler.device.services import Services
from handler.journal.events import Event, EventFactory
from handler.journal.journal import Journal
from handler.journal.rotation_state import Kept, RotationState
from handler.servers.connections import Connections
from handler.servers.delivery import Delivery
from handler.servers.http import Limits
from handler.servers.transport import Deadline
from hsm.certificate import Certificate

from .found import Wish
from .memory import Memory


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
    def kept(self) -> Kept:
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
