"""What a roll-back leaves until a rotation succeeds: the device gateway expects the new key."""

import contextlib
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from handler.device.keystore import IdentityNames
from handler.device.storage import FOLDER
from handler.journal.history import ROLLED_BACK, History
from handler.journal.pending import COMPLETED
from handler.journal.rotation_state import PROVED
from handler.journal.snapshot import Snapshot


@dataclass(frozen=True)
class RollBack:
    """The rotation that was rolled back last; none has succeeded since."""

    rotation_id: str
    time: datetime
    kept: IdentityNames | None
    """Its new identity, if that is kept."""

    def __str__(self) -> str:
        """Say what follows from it, and what to do."""
        kept = f"; key {self.kept.key} is kept for the next rotation" if self.kept else ""
        return (
            f"rotation {self.rotation_id} was rolled back{kept}. Until a rotation succeeds, the device gateway may "
            "reject configuration changes for this device: fix the cause and rotate again"
        )


def read_roll_back(storage: Path, view: Snapshot) -> RollBack | None:
    """Look in journal and history. A success counts only if its rotation is proved."""
    pending = view.rotation.rotation_id if view.rotation and view.rotation.step < PROVED else None
    found = None
    with contextlib.suppress(OSError, ValueError):
        for each in History(storage / FOLDER).read():
            if each.event == COMPLETED and each.success and each.rotation_id != pending:
                found = None
            elif each.kind == ROLLED_BACK:
                found = RollBack(each.rotation_id, datetime.fromisoformat(each.time), None)
    kept = view.kept
    if kept is None:
        return found
    state = kept.rotation
    return RollBack(state.rotation_id, datetime.fromisoformat(kept.since), state.new)
