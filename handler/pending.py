"""What is pending, as far as the daemon and `status` have to know it: read from the journal without loading much.

The daemon waits for weeks in little memory, so nothing here may load cryptography, requests or a PKCS#11 module.
"""

import json
from dataclasses import dataclass
from pathlib import Path

FOLDER = "renew-client-cert"
JOURNAL = "rotation.json"
MARKER = "pending"
"""Exists while the daemon has something to do: the path unit looks for it."""
VERSION = 1
LOCKED = 2
"""The step by which the gateway knows the next key."""


@dataclass(frozen=True)
class Waiting:
    """Why the last call could not go on."""

    reason: str
    until: str | None = None
    """A time (RFC 3339) before which a server asks not to come back, or the clock cannot be right."""
    attempts: int = 1
    """Calls in a row that came no further."""
    token: bool = False
    """Whether the token is to blame: a device that appears may bring it."""


@dataclass(frozen=True)
class Pending:
    """The journal in short."""

    device: str
    rotation_id: str | None
    """The rotation that is under way, else the one that is requested."""
    step: int
    """The last step that is done; 0 for one that is only requested."""
    refused: str | None
    waiting: Waiting | None
    undelivered: int
    due: bool
    """Whether there is something that can be done without being asked."""


def marker(storage: Path) -> Path:
    """Give the file that exists while the daemon has something to do."""
    return storage / FOLDER / MARKER


def is_due(step: int, refused: str | None) -> bool:
    """Whether a rotation goes on without being asked: a refused one does only where it has to be cleaned up."""
    return refused is None or step < LOCKED


def read_pending(storage: Path) -> Pending | None:
    """Read the journal below the storage folder; None where nothing is pending or it cannot be understood.

    A journal that cannot be understood is set aside by the next call that may write (state.py). Raises OSError.
    """
    try:
        data = json.loads((storage / FOLDER / JOURNAL).read_bytes())
        rotation, requested = data["rotation"], data["requested"]
        refused = rotation and rotation["refused"]
        waiting = data.get("waiting")
        return Pending(
            device=str(data.get("device", "")),
            rotation_id=(rotation["request"] if rotation else requested or {}).get("rotation_id"),
            step=rotation["step"] if rotation else 0,
            refused=refused,
            waiting=Waiting(**waiting) if waiting else None,
            undelivered=len(data["events"]),
            due=bool((rotation and is_due(rotation["step"], refused)) or requested or data["events"]),
        )
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
