"""The delivery of events to the device gateway, also beside a rotation in a thread.

An event's id and time are fixed when it happens. It is journalled before anything is sent and leaves the journal when
the gateway has taken it: delivered at least once, in order, under the same id.
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
"""A gateway takes 100 KB at once; a character of the details may be written as 6 bytes or 12."""


class Outbox(Protocol):
    """Where events wait for their delivery: the journal."""

    def undelivered(self) -> list[Event]:
        """Return the events that wait, oldest first."""

    def delivered(self, events: Sequence[Event]) -> None:
        """Forget events that the gateway has taken."""


def next_batch(events: Sequence[Event]) -> list[Event]:
    """Return the oldest events, as many as one request may hold; one at least if there is any."""
    batch: list[Event] = []
    size = 0
    for event in events[:BATCH]:
        size += len(json.dumps(event))
        if batch and size > MAX_BATCH_BYTES:
            break
        batch.append(event)
    return batch


def deliver(outbox: Outbox, gateway: GatewayClient) -> None:
    """Deliver everything that waits, oldest first. Raises ServerRefusedError, PendingError, hsm.errors.TokenError."""
    while batch := next_batch(outbox.undelivered()):
        gateway.post_events(batch)
        outbox.delivered(batch)


class Delivery:
    """Delivers events in a thread of its own, over a connection of its own, without ever delaying the rotation.

    `connect` opens the gateway client in that thread (its TLS handshake must not delay anybody either); `stop` is the
    event by which that client's waiting ends.
    """

    def __init__(self, outbox: Outbox, connect: Callable[[threading.Event], GatewayClient]) -> None:
        self._outbox = outbox
        self._connect = connect
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._draining = threading.Event()
        self._outlived = False
        self._thread = threading.Thread(target=self._run, name="events", daemon=True)

    def start(self) -> None:
        """Begin to deliver what waits and what comes."""
        self._thread.start()

    def notify(self) -> None:
        """Return a note that the outbox has something new."""
        self._wake.set()

    def stop(self, timeout: float) -> None:
        """Finish the request under way, if that takes no longer than `timeout` seconds, and send no further one."""
        self._stop.set()
        self._wait_for_end(timeout)

    def drain(self, timeout: float) -> None:
        """End once nothing is left to deliver, or after `timeout` seconds."""
        self._draining.set()
        self._wait_for_end(timeout)

    def _wait_for_end(self, timeout: float) -> None:
        """Wait for the thread's end, once: a server that says nothing is not waited for again."""
        self._wake.set()
        if self._thread.ident is not None and not self._outlived:
            self._thread.join(timeout)
            self._outlived = self._thread.is_alive()

    def _run(self) -> None:
        gateway = None
        try:
            gateway = self._connect(self._stop)
            while not self._stop.is_set():
                self._wake.clear()
                self._deliver(gateway)
                if self._draining.is_set():
                    break
                self._wake.wait()
        except FORESEEABLE as error:
            # What the gateway does not take now stays in the journal and goes out with the next delivery.
            log.info("events are kept for later: %s", error)
        finally:
            if gateway is not None:
                gateway.close()

    def _deliver(self, gateway: GatewayClient) -> None:
        while (batch := next_batch(self._outbox.undelivered())) and not self._stop.is_set():
            gateway.post_events(batch)
            self._outbox.delivered(batch)
