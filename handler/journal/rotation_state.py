"""The state of a rotation, and the content of a journal."""

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from handler.device.keystore import IdentityNames
from handler.device.request import RotationRequest
from hsm import der
from hsm.certificate import Certificate

from .decoding import MalformedError, read
from .events import Event
from .pending import LOCKED, Pending, events_of, load, summary

SWITCHED, PROVED, ANNOUNCED = 5, 6, 7
"""Values of `RotationState.step`: sota.toml names the new key; the gateway has accepted it; its users have restarted,
and only cleaning up is left."""


@dataclass(frozen=True)
class RotationState:
    """One rotation: the request, the chosen names, and its progress."""

    request: RotationRequest
    old: IdentityNames
    new: IdentityNames
    step: int = 0
    """The last completed step: 0 to 5, PROVED or ANNOUNCED."""
    public_key: str | None = None
    """The new key's SPKI, PEM."""
    csr: str | None = None
    """The CSR, base64 of DER; a retry sends the same one."""
    certificate: str | None = None
    """The issued certificate, PEM, after it passed the checks."""
    chain: tuple[str, ...] = ()
    """The other certificates of the EST answer, PEM; one may be the issuer."""
    unreadable: int = 0
    """The number of unreadable answers to the CSR."""
    announced: bool = False
    """Whether the gateway was told of the new key; it may know it even if its answer was lost."""
    config_digest: str | None = None
    """SHA-256 (hexadecimal) of the config.encrypted that the prepared copy was made from."""
    fioconfig_stopped: bool = False
    """Whether this program stopped fioconfig.service and has to start it again."""
    reported: bool = False
    """Whether the event of its success was journalled: the gateway may have seen the new certificate."""
    files_left: str | None = None
    """Why the device's files on the server may still be encrypted to the old key; they are moved after the proof."""
    rollback: str | None = None
    """Why the rotation rolls back, if it does."""
    refused: str | None = None
    """Why it was refused, if it was; then the daemon does not retry it."""

    @property
    def rotation_id(self) -> str:
        """The ROTATIONID."""
        return self.request.rotation_id

    @property
    def locked(self) -> bool:
        """Whether the gateway may expect the new key, so that this must not be lost."""
        return self.step >= LOCKED or self.announced


def came_further(now: RotationState | None, before: RotationState | None) -> bool:
    """Tell whether a rotation made progress, or asks another EST server than the one that asked for a delay."""
    if now is None or before is None:
        return True
    return (now.step, now.request.est_server) != (before.step, before.request.est_server)


@dataclass(frozen=True)
class Kept:
    """A rotation that was rolled back after the gateway, or a replica of it, may have accepted its certificate."""

    rotation: RotationState
    since: str
    """Time of the roll-back (RFC 3339)."""
    refused: str | None = None
    """When the gateway first refused the old certificate (RFC 3339), if it does."""


class Content(NamedTuple):
    """The content of a journal; `pending` is its summary."""

    pending: Pending
    rotation: RotationState | None
    requested: RotationRequest | None
    kept: Kept | None
    events: list[Event]

    @classmethod
    def load(cls, storage: Path) -> "Content | None":
        """Read the journal in the storage folder; None if nothing is pending.

        Raises MalformedError, LaterJournalError, OSError.
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
    """Raise MalformedError if a CSR or a certificate cannot be decoded."""
    try:
        if rotation.csr is not None:
            der.one(base64.b64decode(rotation.csr, validate=True), der.SEQUENCE)
        for pem in (rotation.certificate, *rotation.chain):
            if pem is not None:
                Certificate.of_pem(pem.encode())
    except ValueError as error:
        raise MalformedError(f"rotation: invalid CSR or certificate: {error}") from error
