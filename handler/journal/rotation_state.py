"""What is known of a rotation, and all that a journal says."""

import base64
from dataclasses import dataclass
from pathlib import Path

from handler.device.keystore import IdentityNames
from handler.device.request import RotationRequest
from hsm import der
from hsm.certificate import Certificate

from .decoding import MalformedError, read
from .events import Event
from .pending import LOCKED, Pending, events_of, load, summary

SWITCHED, PROVED, ANNOUNCED = 5, 6, 7
"""Values of `RotationState.step` (and LOCKED): sota.toml names the new key; the gateway has taken it; its users were
told, and only tidying up is left."""


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
    unreadable: int = 0
    """Answers of the EST server to the CSR that could not be read."""
    announced: bool = False
    """The gateway was asked to expect the new key, and may know it though its answer was lost."""
    config_digest: str | None = None
    """SHA-256 (hex) of the config.encrypted that the copy kept aside was made from."""
    fioconfig_stopped: bool = False
    """fioconfig.service was running and we stopped it: the call that continues starts it again."""
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


def came_further(now: RotationState | None, before: RotationState | None) -> bool:
    """Tell whether a rotation came further, or another server than the one that asked to come back later is asked."""
    if now is None or before is None:
        return True
    return (now.step, now.request.est_server) != (before.step, before.request.est_server)


@dataclass(frozen=True)
class Kept:
    """A rotation that was rolled back after the gateway may have seen its certificate: a replica may have taken it."""

    rotation: RotationState
    since: str
    """When it was rolled back (RFC 3339)."""
    refused: str | None = None
    """Since when the gateway refuses the old certificate for good (RFC 3339), if it does."""


@dataclass(frozen=True)
class Content:
    """All that a journal says; `pending` is the same in short."""

    pending: Pending
    rotation: RotationState | None
    requested: RotationRequest | None
    kept: Kept | None
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
        kept = None if data.get("kept") is None else read(Kept, data["kept"], "kept")
        for each in (rotation, None if kept is None else kept.rotation):
            if each is not None:
                _check_encoded(each)
        return cls(pending, rotation, requested, kept, events_of(data))


def _check_encoded(rotation: RotationState) -> None:
    """Raise MalformedError where what is kept in base64 or PEM is none."""
    try:
        if rotation.csr is not None:
            der.one(base64.b64decode(rotation.csr, validate=True), der.SEQUENCE)
        for pem in (rotation.certificate, *rotation.chain):
            if pem is not None:
                Certificate.of_pem(pem.encode())
    except ValueError as error:
        raise MalformedError(f"rotation: a CSR or certificate that is none: {error}") from error
