"""The journal, read by commands that change nothing: it stays in place in any state."""

from pathlib import Path
from typing import NamedTuple

from handler.device.keystore import IdentityNames
from handler.device.request import RotationRequest
from handler.device.storage import FOLDER

from .decoding import MalformedError
from .pending import JOURNAL, LOST, LaterJournalError, Pending, is_lost
from .rotation_state import PROVED, Content, Kept, RotationState

TAKEN_OVER = "cert-rotation.state"
"""An unfinished rotation of fioconfig itself (takeover.py)."""


class Snapshot(NamedTuple):
    """The content of the journal."""

    pending: Pending | None = None
    """None if nothing is pending or the journal cannot be read."""
    rotation: RotationState | None = None
    problem: str | None = None
    """Why the journal cannot be read."""
    kept: Kept | None = None
    """The rotation that was rolled back and is kept."""
    requested: RotationRequest | None = None
    """The rotation to start when nothing else is pending."""
    left_by_fioconfig: bool = False
    """Whether fioconfig left a rotation that the next call takes over."""

    @classmethod
    def of(cls, storage: Path | None) -> "Snapshot":
        """Read the journal in a storage folder. Raises nothing foreseeable."""
        if storage is None:
            return cls(problem="the storage folder is unknown")
        path, seen = storage / FOLDER / JOURNAL, cls()
        try:
            if not storage.is_dir():
                return cls(problem=f"the storage folder {storage} does not exist")
            seen = cls(left_by_fioconfig=(storage / TAKEN_OVER).exists())
            content = Content.load(storage)
        except OSError as error:
            return seen._replace(problem=f"{path} cannot be read: {error.strerror}; run this as root")
        except LaterJournalError as error:
            return seen._replace(problem=str(error))
        except MalformedError as error:
            after = "the next call sets it aside and continues with the identity in sota.toml"
            return seen._replace(problem=f"{path} is damaged ({error}): {after}")
        if content is not None:
            seen = seen._replace(
                pending=content.pending, rotation=content.rotation, kept=content.kept, requested=content.requested
            )
        elif is_lost(storage):
            seen = seen._replace(problem=LOST)
        return seen

    @property
    def names(self) -> tuple[IdentityNames, ...]:
        """The names of both identities of a pending rotation, and of one that is kept."""
        pending = (self.rotation.old, self.rotation.new) if self.rotation else ()
        return (*pending, self.kept.rotation.new) if self.kept else pending

    def why_unseen(self, names: IdentityNames) -> str | None:
        """Say why the gateway must not see the certificate of these names; None if it has already seen it.

        Showing a new certificate is the point of no return, which is left to the rotation itself.
        """
        if self.problem is not None:
            return "it is unknown whether a rotation is pending, see `rotation`"
        if self.left_by_fioconfig:
            return "a rotation that fioconfig left is pending, and the device gateway may not have seen its certificate"
        rotation = self.rotation
        if rotation is None or rotation.step >= PROVED or names == rotation.old:
            return None
        return (
            f"rotation {rotation.rotation_id} has switched to this certificate, and the device gateway has not "
            "accepted it yet; showing it is the point of no return, so run `renew-client-cert resume`"
        )
