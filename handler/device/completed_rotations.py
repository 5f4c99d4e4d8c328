"""cert-rotation.state.completed: which ROTATIONIDs were completed.

The stock handler searches it for `"RotationId":"<id>",` and rotates nothing twice. `Earlier` is ours: fioconfig calls
with the id of its request file at each boot, even if a person has rotated since. fioconfig's own file holds the new
private key; this one holds no secret.
"""

import contextlib
import json
import logging
from pathlib import Path

from .request import RotationRequest
from .storage import atomic_write, read_regular

log = logging.getLogger(__name__)

NAME = "cert-rotation.state.completed"
MOST = 20
"""Ids to keep."""


def rotation_ids(storage: Path) -> list[str]:
    """Return the completed ROTATIONIDs, the last one first; none if the file cannot be read."""
    path = storage / NAME
    try:
        data = json.loads(read_regular(path))
        found = [data["RotationId"]]
        with contextlib.suppress(KeyError, TypeError):  # fioconfig's own file has no others
            found += [each["RotationId"] for each in data["Earlier"]]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or error
        log.warning("%s cannot be read (%s): assuming that no rotation was completed", path, why)
        return []
    return [each for each in found if isinstance(each, str)]


def write(storage: Path, request: RotationRequest, certificate: str) -> None:
    """Record that a rotation is complete; `certificate` is the new one, PEM. Raises OSError."""
    earlier = [each for each in rotation_ids(storage) if each != request.rotation_id][: MOST - 1]
    content: dict[str, object] = {
        "RotationId": request.rotation_id,
        "StepIdx": 5,
        "EstServer": request.est_server,
        "PkeySlotIds": list(request.key_ids),
        "CertSlotIds": list(request.certificate_ids),
        "NewKey": "",
        "NewCert": certificate,
        "FullConfigEncrypted": "",
        "DeviceConfigUpdated": True,
        "Finalized": True,
    }
    if earlier:  # the id is not the last field of each: the stock handler looks for the comma behind it
        content["Earlier"] = [{"RotationId": each, "StepIdx": 5} for each in earlier]
    atomic_write(storage / NAME, json.dumps(content, separators=(",", ":")).encode(), mode=0o600)
