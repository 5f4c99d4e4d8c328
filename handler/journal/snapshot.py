"""The journal as somebody sees it who only looks: nothing is set aside, whatever state it is in."""

from dataclasses import dataclass
from pathlib import Path

from handler.device.keystore import IdentityNames
from handler.device.storage import FOLDER

from .decoding import MalformedError
from .pending import BROKEN, JOURNAL, LEFT, LOST, LaterJournalError, Pending
from .rotation_state import PROVED, Content, Kept, RotationState

TAKEN_OVER = "cert-rotation.state"
"""A rotation that fioconfig itself left (takeover.py)."""


@dataclass(frozen=True)
class Snapshot:
    """What the journal says."""

    pending: Pending | None = None
    """None where nothing is pending, or the journal cannot be read."""
    rotation: RotationState | None = None
    problem: str | None = None
    """Why the journal cannot be read."""
    kept: Kept | None = None
    """The rotation that was rolled back and is kept."""
    left_by_fioconfig: bool = False
    """Whether a rotation of fioconfig's own code lies there, for the next call to take over."""

    @classmethod
    def of(cls, storage: Path | None) -> "Snapshot":
        """Read the journal below a storage folder. Raises nothing that is foreseeable."""
        if storage is None:
            return cls(problem="the storage folder is not known")
        path = storage / FOLDER / JOURNAL
        left = False
        try:
            if not storage.is_dir():
                return cls(problem=f"the storage folder {storage} is not there")
            left = (storage / TAKEN_OVER).exists()
            content = Content.load(storage)
        except OSError as error:
            return cls(problem=f"{path} cannot be read: {error.strerror}; run this as root", left_by_fioconfig=left)
        except (LaterJournalError, MalformedError) as error:
            broken = f"{path} is broken ({error}): the next call sets it aside and goes by sota.toml"
            problem = broken if isinstance(error, MalformedError) else str(error)
            return cls(problem=problem, left_by_fioconfig=left)
        if content is None:
            lost = any((storage / FOLDER / each).exists() for each in (BROKEN, LEFT))
            return cls(problem=LOST if lost else None, left_by_fioconfig=left)
        return cls(content.pending, content.rotation, kept=content.kept, left_by_fioconfig=left)

    @property
    def names(self) -> tuple[IdentityNames, ...]:
        """The names of both identities of a pending rotation, and of one that is kept."""
        pending = (self.rotation.old, self.rotation.new) if self.rotation else ()
        return (*pending, self.kept.rotation.new) if self.kept else pending

    def why_unseen(self, names: IdentityNames) -> str | None:
        """Say why the gateway must not see the certificate of these names; None where it has seen it already.

        Its first sight of a rotation's new certificate is the point of no return, which only the rotation itself takes.
        """
        if self.problem is not None:
            return f"it is not known whether a rotation is pending ({self.problem})"
        if self.left_by_fioconfig:
            return "a rotation that fioconfig left is pending, and its certificate may be new to the gateway"
        rotation = self.rotation
        if rotation is None or rotation.step >= PROVED or names == rotation.old:
            return None
        return (
            f"rotation {rotation.rotation_id} has switched to this certificate, and the gateway has not taken it yet: "
            "its first sight is the point of no return, left to `renew-client-cert resume`"
        )
