"""The delivery of events to the device gateway, also in a thread beside a rotation.

An event gets its id and time when it happens, is journalled before it is sent, and leaves the journal when the gateway
has accepted it: it is delivered at least once, in order, under the same id.
"""

import json
import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from handler.errors import FORESEEABLE

from .gateway import GatewayClient

log = logging.getLogger(__name__)

Event = dict[str, Any]
"""One event in the gateway's JSON shape (PROTOCOL: POST /events)."""

BATCH = 50
"""Events per request, at most."""
MAX_BATCH_BYTES = 90_000
"""A gateway takes 100 KB at once; JSON may need 12 bytes for a character."""


class Outbox(Protocol):
    """Where events wait for delivery: the journal."""

    def undelivered(self) -> list[Event]:
        """Return the waiting events, oldest first."""

    def delivered(self, events: Sequence[Event]) -> None:
        """Forget events that the gateway has accepted."""


def next_batch(events: Sequence[Event]) -> list[Event]:
    """Return the oldest events, as many as one request may hold, but at least one."""
    batch: list[Event] = []
    size = 0
    for event in events[:BATCH]:
        size += len(json.dumps(event))
        if batch and size > MAX_BATCH_BYTES:
            break
        batch.append(event)
    return batch


def deliver(outbox: Outbox, gateway: GatewayClient, stop: threading.Event | None = None) -> None:
    """Deliver all waiting events, oldest first, until `stop` is set.

    Raises ServerRefusedError, PendingError, hsm.errors.TokenError.
    """
    while (batch := next_batch(outbox.undelivered())) and not (stop and stop.is_set()):
        gateway.post_events(batch)
        outbox.delivered(batch)


class Delivery:
    """Delivers waiting and new events in a thread and over a connection of its own, without delaying the rotation.

    `connect` opens the gateway client in that thread, so that its TLS handshake delays nothing; the client stops
    waiting when the event that it is given is set.
    """

    def __init__(self, outbox: Outbox, connect: Callable[[threading.Event], GatewayClient]) -> None:
        self._outbox = outbox
        self._connect = connect
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._draining = threading.Event()
        self.failure: Exception | None = None  # why it ended early, if it did
        self._thread = threading.Thread(target=self._run, name="events", daemon=True)
        self._thread.start()

    def notify(self) -> None:
        """Announce a new event."""
        self._wake.set()

    def end(self, timeout: float, *, drain: bool = False) -> None:
        """Wait `timeout` seconds at most for the current request, or for all (`drain`), then send no other one."""
        (self._draining if drain else self._stop).set()
        self._wake.set()
        self._thread.join(timeout)
        self._stop.set()

    def _run(self) -> None:
        gateway = None
        try:
            gateway = self._connect(self._stop)
            while not self._stop.is_set():
                self._wake.clear()
                deliver(self._outbox, gateway, self._stop)
                if self._draining.is_set():
                    break
                self._wake.wait()
        except FORESEEABLE as error:
            self.failure = error  # they stay in the journal until the next delivery
            log.info("keeping events for later: %s", error)
        finally:
            if gateway is not None:
                gateway.http.close()
