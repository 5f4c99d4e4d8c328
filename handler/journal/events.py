"""The events of a rotation, which the operators see: made when they happen, with an id and a time of their own."""

import uuid
from datetime import UTC, datetime
from typing import Any

Event = dict[str, Any]
"""One event in the gateway's JSON shape (POST /events)."""

STARTED = "CertRotationStarted"
MAX_DETAILS = 1000


class EventFactory:
    """Makes the events of one rotation; `target` is the name and version of the running Target."""

    def __init__(self, rotation_id: str, target: tuple[str, str]) -> None:
        self._rotation_id = rotation_id
        self._target = target

    def make(self, name: str, failure: str | None = None, note: str | None = None) -> Event:
        """Make the event `name`; it reports a success unless `failure` gives the reason."""
        event: Event = {
            "correlationId": self._rotation_id,
            "success": failure is None,
            "targetName": self._target[0],
            "version": self._target[1],
        }
        details = failure or note
        if details:
            event["details"] = details if len(details) <= MAX_DETAILS else details[: MAX_DETAILS - 1] + "…"
        return {
            "id": str(uuid.uuid4()),
            "deviceTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "event": event,
            "eventType": {"id": name, "version": 0},
        }
