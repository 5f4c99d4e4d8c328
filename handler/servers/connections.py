"""Connections to the servers, each for one identity and one thread."""

import logging
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from handler.backoff import in_line
from handler.crypto.encrypted_values import ConfigEntries
from handler.errors import FORESEEABLE, PendingError

from .est import EST_SERVER, EstClient
from .gateway import GATEWAY, GatewayClient
from .http import HttpClient, Limits
from .transport import Deadline

log = logging.getLogger(__name__)

IN_FLIGHT = 5.0
"""Seconds that the end of a call waits for a connection that is being made."""

Identity = Any
"""The names of an identity, which only the device interprets."""


class Device(Protocol):
    """What a connection needs to know: the device gateway, the trust anchors (PEM) and our identity."""

    server: str
    config_url: str
    ca_file: Path

    def authenticate(self, context: ssl.SSLContext, names: Identity) -> None:
        """Make the context present that identity: the one certificate, without a chain."""


class Connections:
    """Opens the clients of one call, which share its deadline. The gateway's stays open from step 2 to step 4."""

    def __init__(self, device: Device, deadline: Deadline, limits: Limits) -> None:
        self._device = device
        self._deadline = deadline
        self._limits = limits
        self._gateway: _Gateway | None = None

    def http(self, server: str, names: Identity, stop: threading.Event | None = None) -> HttpClient:
        """Make a client of the server with that name, as that identity; it stops waiting when `stop` is set."""
        authenticate = partial(self._device.authenticate, names=names)
        return HttpClient(self._device.ca_file, authenticate, self._deadline, self._limits, stop, server)

    @contextmanager
    def est(self, url: str, names: Identity) -> Iterator[EstClient]:
        """Open a client of the EST server."""
        http = self.http(EST_SERVER, names)
        try:
            yield EstClient(url, http)
        finally:
            http.close()

    def new_gateway(self, names: Identity, stop: threading.Event | None = None) -> GatewayClient:
        """Open a client of the device gateway; the caller closes it."""
        return GatewayClient(self._device.server, self._device.config_url, self.http(GATEWAY, names, stop))

    def prepare_gateway(self, names: Identity) -> None:
        """Begin to fetch this device's files from the gateway while the EST server works.

        The next request meets, and reports, what fails here.
        """
        self.close()
        self._gateway = _Gateway(names)
        thread = threading.Thread(target=self._ask_ahead, args=[self._gateway], name="gateway", daemon=True)
        self._gateway.thread = thread
        thread.start()

    def _ask_ahead(self, opened: "_Gateway") -> None:
        once = threading.Event()
        once.set()  # no retries here
        try:
            opened.client = self.new_gateway(opened.names, once)
            opened.files = opened.client.device_config()
        except PendingError as error:
            opened.asked_to_wait = error if error.not_before else None
        except FORESEEABLE as error:
            log.debug("the device gateway could not be asked in advance: %s", error)
        finally:
            once.clear()
            if opened.abandoned and opened.client is not None:
                opened.client.http.close()

    def gateway(self, names: Identity) -> GatewayClient:
        """Return the client of the device gateway that this call keeps open for that identity."""
        return self._opened(names)[1]

    def device_config(self, names: Identity) -> ConfigEntries:
        """Return this device's own files, fetched once per connection. Raises ServerRefusedError, PendingError."""
        opened, gateway = self._opened(names)
        if opened.asked_to_wait is not None:
            raise opened.asked_to_wait
        if opened.files is None:
            opened.files = gateway.device_config()
        return opened.files

    def _opened(self, names: Identity) -> tuple["_Gateway", GatewayClient]:
        opened = self._gateway
        if opened is not None and opened.ended(None) and opened.client is not None and opened.names == names:
            return opened, opened.client
        self.close()
        client = self.new_gateway(names)
        self._gateway = _Gateway(names, client)
        return self._gateway, client

    def wait(self, retry: int, reason: PendingError) -> None:
        """Wait before the `retry`-th repetition (from 0). Raises `reason` if that exceeds the time of this call."""
        until = reason.not_before
        asked = None if until is None else max(0.0, (until - datetime.now(UTC)).total_seconds())
        turn = in_line(asked, self._limits.retry_delays, retry, self._deadline.remaining)
        if turn.wait is None:
            raise reason
        self.close()
        log.info("%s; retrying in %.0f s", reason, turn.wait)
        threading.Event().wait(turn.wait)

    def close(self) -> None:
        """Close the gateway's client."""
        opened, self._gateway = self._gateway, None
        if opened is not None and opened.ended(IN_FLIGHT) and opened.client is not None:
            opened.client.http.close()


@dataclass
class _Gateway:
    """The device gateway's client for one identity, and what it was given. With a thread, read it after `ended`."""

    names: Identity
    client: GatewayClient | None = None
    files: ConfigEntries | None = None
    asked_to_wait: PendingError | None = None
    thread: threading.Thread | None = None
    """Connects, and fetches the files."""
    abandoned: bool = False

    def ended(self, timeout: float | None) -> bool:
        """Wait so many seconds for the thread; tell whether it has ended. Else it closes what it opened by itself."""
        if self.thread is not None:
            self.thread.join(timeout)
            self.abandoned = self.thread.is_alive()
        return not self.abandoned
