"""What the history tells: how the last rotation ended, and what a roll-back leaves until a rotation succeeds."""

import contextlib
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from handler.device import completed_rotations
from handler.device.keystore import IdentityNames
from handler.device.storage import FOLDER
from handler.journal.events import STARTED
from handler.journal.history import ROLLED_BACK, History
from handler.journal.pending import COMPLETED
from handler.journal.rotation_state import PROVED
from handler.journal.snapshot import Snapshot


@dataclass(frozen=True)
class LastRotation:
    """How the last rotation ended."""

    rotation_id: str
    time: datetime | None
    success: bool
    details: str = ""


@dataclass(frozen=True)
class RollBack:
    """The rotation that was rolled back last; none has succeeded since, so the device gateway expects the new key."""

    rotation_id: str
    time: datetime
    kept: IdentityNames | None = None
    """Its new identity, if that is kept."""

    def __str__(self) -> str:
        """Say what follows from it, and what to do."""
        kept = f"; key {self.kept.key} is kept for the next rotation" if self.kept else ""
        return (
            f"rotation {self.rotation_id} was rolled back{kept}. Until a rotation succeeds, the device gateway may "
            "reject configuration changes for this device: fix the cause and rotate again"
        )


@dataclass(frozen=True)
class Past:
    """What is known of earlier rotations, and of the beginning of the pending one."""

    last: LastRotation | None = None
    roll_back: RollBack | None = None
    since: datetime | None = None
    """When the pending rotation began."""


def read_past(storage: Path | None, view: Snapshot) -> Past:
    """Read the history. A pending rotation has not ended before it is proved, even if a success was reported."""
    if storage is None:
        return Past()
    unproved = view.rotation.rotation_id if view.rotation and view.rotation.step < PROVED else None
    pending = view.pending.rotation_id if view.pending else None
    last = roll_back = since = None
    entries = []
    with contextlib.suppress(OSError):
        entries = History(storage / FOLDER).read()
    for each in entries:
        try:
            time = datetime.fromisoformat(each.time)
        except ValueError:  # damaged
            continue
        if each.event == STARTED and each.success and each.rotation_id == pending:
            since = time
        if each.event == COMPLETED and each.rotation_id != unproved:
            last = LastRotation(each.rotation_id, time, each.success, each.details)
            roll_back = None if each.success else roll_back
        if each.kind == ROLLED_BACK:
            roll_back = RollBack(each.rotation_id, time)
    if last is None and (completed := completed_rotations.rotation_ids(storage)):
        last = LastRotation(completed[0], None, success=True)
    if view.kept is not None:
        kept = view.kept.rotation
        roll_back = RollBack(kept.rotation_id, datetime.fromisoformat(view.kept.since), kept.new)
    return Past(last, roll_back, since)
