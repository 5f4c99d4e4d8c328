"""A device gateway with one device: who may ask, its configuration, and what it reported.

| the client's key | answer |
| --- | --- |
| current | as asked |
| announced as the next one | becomes the current one at this first sight; the old one is denied from then on |
| denied | `denied_with` |
| any other | 403 (502 where the gateway does not support rotation) |

| request | |
| --- | --- |
| `GET /device` | what is known of the device |
| `PATCH /device` | announces the next key; configuration changes are refused until it is in use |
| `GET /config` | the whole configuration; 204: none, 304: not changed since If-Modified-Since |
| `GET /config-device` | the device's own files; 204: none |
| `PATCH /config` | stores files of the device itself, encrypted to the current or next key |
| `POST /events` | stores events, except those whose correlation id no operator could ask for |
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime
from typing import Any, Literal

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from . import gateway_checks as checks
from .faults import Fault
from .https_server import Answer, HttpsServer, RecordedRequest, ServerState
from .pki import spki_pem

JSON = "application/json"
MAX_EVENTS = 100_000
COMPLETED = "CertRotationCompleted"

Config = dict[str, dict[str, Any]]
"""File name -> Value, Unencrypted, OnChanged."""


@dataclass
class GatewayState(ServerState):
    """The gateway's side of one device."""

    current: str | None = None
    """Public key (SPKI, PEM) of the device."""
    next_pubkey: str | None = None
    denied: set[str] = field(default_factory=set)
    config: Config | None = None
    config_modified: datetime = field(default_factory=lambda: datetime.now(UTC).replace(microsecond=0))
    config_device: Config | None = None
    supports_rotation: bool = True
    unknown_status: int = 404
    """What a gateway without key rotation answers to `PATCH /device`."""
    denied_with: Literal[401, 403, "alert"] = 403
    refuse_new_certificate: Literal[200, 401, 403, "alert"] | None = None
    """Refuse the announced key instead of taking it; "alert": in the TLS handshake; 200: by a page in front of it."""
    events: list[dict[str, Any]] = field(default_factory=list)
    """All events, in the order of their arrival, repeated ones too."""
    deliveries: list[tuple[str, RecordedRequest]] = field(default_factory=list)
    """Each event's id, and the request that brought it."""
    dropped_events: list[dict[str, Any]] = field(default_factory=list)
    updates: list[dict[str, Any]] = field(default_factory=list)
    """The bodies of `PATCH /config` that were stored."""

    def register(
        self, certificate: x509.Certificate, config: Config | None = None, config_device: Config | None = None
    ) -> None:
        """Take a device in, with its whole configuration and the part of it that is its own."""
        self.current = spki_pem(certificate.public_key())
        self.config, self.config_device = config, config_device

    @contextmanager
    def behind(self) -> Iterator[None]:
        """Be a second replica, which does not know yet that the key has changed: it accepts only the old one."""
        known = self.current, self.next_pubkey, self.denied
        (old,) = self.denied
        self.current, self.next_pubkey, self.denied = old, None, set()
        yield
        self.current, self.next_pubkey, self.denied = known

    # Questions that tests ask

    def unique_events(self) -> list[dict[str, Any]]:
        """Give each event once (by its id), in the order of first arrival."""
        return list({event["id"]: event for event in reversed(self.events)}.values())[::-1]

    def event_names(self, rotation_id: str | None = None) -> list[str]:
        """Give the names of the events, each event once; one that reports a failure with " failed" after it."""
        return [
            event["eventType"]["id"] + ("" if event["event"]["success"] else " failed")
            for event in self.unique_events()
            if rotation_id in (None, event["event"]["correlationId"])
        ]

    def completed(self, rotation_id: str) -> list[dict[str, Any]]:
        """Give the CertRotationCompleted events of a rotation, each once."""
        return [
            event
            for event in self.unique_events()
            if event["eventType"]["id"] == COMPLETED and event["event"]["correlationId"] == rotation_id
        ]

    def delivered_with(self, event: Mapping[str, Any]) -> list[str | None]:
        """Give the public keys (SPKI, PEM) with which an event was delivered."""
        return [request.public_key for event_id, request in self.deliveries if event_id == event["id"]]

    def files_readable_with(self, key: ec.EllipticCurvePrivateKey) -> dict[str, bytes]:
        """Decrypt the device's own files on the server. Raises if the key does not fit."""
        return readable_with(key, self.config_device or {})

    def set_file(self, name: str, plaintext: bytes, *, on_changed: list[str] | None = None) -> None:
        """Do what an operator does with fioctl: store a file of the device, encrypted to its current key."""
        if self.next_pubkey is not None:
            raise RuntimeError("the configuration is locked until the device uses its next key")
        from handler.crypto import ecies  # noqa: PLC0415 - servers need it for this only

        value = ecies.encrypt(load_pem_public_key((self.current or "").encode()), plaintext)
        self._store({name: {"Value": value, "Unencrypted": False, "OnChanged": on_changed or []}})

    def revoked(self) -> set[int]:
        """Give the serial numbers that are refused in the handshake."""
        keys = set(self.denied) if self.denied_with == "alert" else set()
        if self.refuse_new_certificate == "alert" and self.next_pubkey is not None:
            keys.add(self.next_pubkey)
        return super().revoked().union(*(self.pki.serials_of(key) for key in keys))

    # What the requests do

    def refusal(self, request: RecordedRequest) -> Answer | None:
        """Decide whether this client may ask; take the next key as the current one when it shows for the first time."""
        key = request.public_key
        if key is not None and key == self.current:
            return None
        if not self.supports_rotation:
            return Answer.text(502, "panic: the device has another public key")
        if key in self.denied:
            return Answer.text(_status(self.denied_with), "This public key was rotated away")
        if key is None or key != self.next_pubkey:
            return Answer.text(403, "Unknown public key")
        if self.refuse_new_certificate is not None:
            page = "<html>" * (self.refuse_new_certificate == 200)
            return Answer.text(_status(self.refuse_new_certificate), f"{page}The new certificate is not accepted")
        if self.current is not None:
            self.denied.add(self.current)
        self.current, self.next_pubkey = key, None
        return None

    def show_device(self, _request: RecordedRequest) -> Answer:
        """Do GET /device."""
        return Answer.json(200, {"pubkey": self.current, "next_pubkey": self.next_pubkey})

    def announce_key(self, request: RecordedRequest) -> Answer:
        """Do PATCH /device."""
        if not self.supports_rotation:
            return Answer.json(self.unknown_status, {"message": "Not Found"})
        body = checks.read_json(request.body)
        if not isinstance(body, dict) or body.keys() != {"next_pubkey"}:
            raise ValueError("Expected next_pubkey")
        self.next_pubkey = checks.read_public_key(body["next_pubkey"])
        return Answer.json(200, {})

    def show_config(self, request: RecordedRequest) -> Answer:
        """Do GET /config."""
        if self.config is None:
            return Answer(204)
        since = request.headers.get("If-Modified-Since")
        if since is not None and self.config_modified <= parsedate_to_datetime(since):
            return Answer(304)
        # The client keeps this date as the time of its copy, and asks with it next time.
        return Answer.json(200, self.config, {"Date": format_datetime(self.config_modified, usegmt=True)})

    def show_config_device(self, _request: RecordedRequest) -> Answer:
        """Do GET /config-device."""
        return Answer(204) if self.config_device is None else Answer.json(200, self.config_device)

    def update_config(self, request: RecordedRequest) -> Answer:
        """Do PATCH /config."""
        update = checks.read_json(request.body)
        checks.check_config_update(update, self.config_device or {})
        if checks.read_public_key(update["public-key"]) not in (self.current, self.next_pubkey):
            raise ValueError("public-key is neither the device's key nor its next one")
        self._store({file["name"]: checks.stored_form(file) for file in update["files"]})
        self.updates.append(update)
        return Answer.json(200, {})

    def record_events(self, request: RecordedRequest) -> Answer:
        """Do POST /events."""
        if len(request.body) > MAX_EVENTS:
            return Answer.text(413, "Too many events at once")
        events = checks.read_json(request.body)
        checks.check_events(events)
        for event in events:
            if not checks.CORRELATION_ID.match(event["event"]["correlationId"]):
                self.dropped_events.append(event)
                continue
            self.events.append(event)
            self.deliveries.append((event["id"], request))
        return Answer.text(200, "")

    def _store(self, files: Config) -> None:
        self.config_device = {**(self.config_device or {}), **files}
        self.config = {**(self.config or {}), **files}
        self.config_modified = datetime.now(UTC).replace(microsecond=0)


class Gateway(HttpsServer):
    """Serves a GatewayState; `url` is what tls.server names."""

    state: GatewayState

    def fault_for(self, request: RecordedRequest) -> Fault | None:
        """Give the misbehaviour for this request, which may be one for a key that was not seen yet."""
        announced = request.public_key is not None and request.public_key == self.state.next_pubkey
        return self.state.faults.for_request(request.method, request.path, announced=announced)

    def respond(self, request: RecordedRequest) -> Answer:
        """Find the operation, for a client that may ask."""
        refusal = self.state.refusal(request)
        if refusal is not None:
            return refusal
        operations = {
            ("GET", "/device"): self.state.show_device,
            ("PATCH", "/device"): self.state.announce_key,
            ("GET", "/config"): self.state.show_config,
            ("GET", "/config-device"): self.state.show_config_device,
            ("PATCH", "/config"): self.state.update_config,
            ("POST", "/events"): self.state.record_events,
        }
        operation = operations.get((request.method, request.path))
        if operation is None:
            return Answer.json(404, {"message": "Not Found"})
        if request.method != "GET" and request.headers.get("Content-Type") != JSON:
            return Answer.json(415, {"message": "Unsupported Media Type"})
        try:
            return operation(request)
        except ValueError as error:
            return Answer.text(400, str(error))


def readable_with(key: ec.EllipticCurvePrivateKey, config: Config) -> dict[str, bytes]:
    """Decrypt the values of a configuration; unencrypted and empty ones stay. Raises if the key does not fit."""
    from handler.crypto import ecies  # noqa: PLC0415 - servers need it for this only

    return {
        name: (entry.get("Value") or "").encode()
        if entry.get("Unencrypted") or not entry.get("Value")
        else ecies.decrypt(key, entry["Value"])
        for name, entry in config.items()
    }


def _status(refusal: int | str) -> int:
    """Give the status of a refusal; one by alert gets here only over a connection that is older than it."""
    return 403 if refusal == "alert" else int(refusal)
