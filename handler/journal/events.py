"""The events of a rotation, for the operators: id and time are set when they happen."""

import uuid
from datetime import UTC, datetime
from typing import Any

from handler.errors import harmless

from .pending import COMPLETED

Event = dict[str, Any]
"""One event in the gateway's JSON shape (POST /events)."""

STARTED = "CertRotationStarted"
MAX_DETAILS = 1000
MAX_EVENTS = 200
"""The most events that wait for delivery; the oldest failed attempts are dropped first."""


class EventFactory:
    """Creates the events of one rotation; `target` is the name and version of the running Target."""

    def __init__(self, rotation_id: str, target: tuple[str, str]) -> None:
        self._rotation_id = rotation_id
        self._target = target

    def make(self, name: str, failure: str | None = None, note: str | None = None) -> Event:
        """Return the event `name`: a success, or a failure with its reason; `note` are details of a success."""
        event: Event = {
            "correlationId": self._rotation_id,
            "success": failure is None,
            "targetName": harmless(self._target[0]),
            "version": harmless(self._target[1]),
        }
        details = harmless(failure or note or "")
        if details:
            event["details"] = details if len(details) <= MAX_DETAILS else details[: MAX_DETAILS - 1] + "…"
        return {
            "id": str(uuid.uuid4()),
            "deviceTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "event": event,
            "eventType": {"id": name, "version": 0},
        }


def says_the_same(event: Event, last: Event) -> bool:
    """Tell whether a failure repeats the last, undelivered event."""
    return (
        event["eventType"] == last["eventType"]
        and event["event"] == last["event"]
        and not event["event"]["success"]
        and event["eventType"]["id"] != COMPLETED
    )


def withdraws(event: Event, waiting: Event) -> bool:
    """Tell whether a failed completion replaces an undelivered success of the same rotation."""
    if event["eventType"]["id"] != COMPLETED or waiting["eventType"]["id"] != COMPLETED:
        return False
    new, old = event["event"], waiting["event"]
    return new["correlationId"] == old["correlationId"] and old["success"] and not new["success"]


def limited(events: list[Event]) -> list[Event]:
    """Drop surplus events: the oldest failed attempts first, then the oldest events."""
    surplus = len(events) - MAX_EVENTS
    attempts = [each["id"] for each in events if not each["event"]["success"] and each["eventType"]["id"] != COMPLETED]
    gone = set(attempts[: max(0, surplus)])
    return [each for each in events if each["id"] not in gone][-MAX_EVENTS:]
