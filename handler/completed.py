"""cert-rotation.state.completed: which ROTATIONID was completed last, as fioconfig keeps it.

Written so that the stock handler, which looks for the text `"RotationId":"<id>",`, rotates nothing twice. fioconfig's
own file holds the new private key; this one holds no secret.
"""

import json
import logging
from pathlib import Path

from .state import RotationState
from .storage import atomic_write

log = logging.getLogger(__name__)

NAME = "cert-rotation.state.completed"


def rotation_id(storage: Path) -> str | None:
    """Give the ROTATIONID that was completed last; None where there is none or the file cannot be read."""
    path = storage / NAME
    try:
        data = json.loads(path.read_bytes())
        found = data["RotationId"]
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        log.warning("%s cannot be read (%s): taken as if no rotation had been completed", path, error)
        return None
    return found if isinstance(found, str) else None


def write(storage: Path, state: RotationState) -> None:
    """Record that the rotation is complete. Raises OSError."""
    content = {
        "RotationId": state.rotation_id,
        "StepIdx": 5,
        "EstServer": state.request.est_server,
        "PkeySlotIds": list(state.request.key_ids),
        "CertSlotIds": list(state.request.certificate_ids),
        "NewKey": "",
        "NewCert": state.certificate or "",
        "FullConfigEncrypted": "",
        "DeviceConfigUpdated": True,
        "Finalized": True,
    }
    atomic_write(storage / NAME, json.dumps(content, separators=(",", ":")).encode(), mode=0o600)
