"""What the device gateway asks of the bodies of requests; every problem is a ValueError that says what is wrong.

The real one ignores what it does not know; here a field too many is a mistake, so that a test sees it.
"""

import json
import re
import uuid
from collections.abc import Mapping
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from .pki import spki_pem


class BadRequestError(ValueError):
    """A body that the gateway does not take."""


CORRELATION_ID = re.compile(r"^[a-zA-Z0-9_-]+$")
_CONFIG_FIELDS = {"Value", "Unencrypted", "OnChanged"}
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")


def read_json(body: bytes) -> Any:
    """Read a body."""
    try:
        return json.loads(body)
    except ValueError as error:
        raise BadRequestError(f"Invalid JSON: {error}") from error


def read_public_key(text: object) -> str:
    """Read a public key on P-256 or P-384 (SPKI, PEM); give it in its one form."""
    if not isinstance(text, str) or not text.startswith("-----BEGIN PUBLIC KEY-----\n"):
        raise BadRequestError("Expected a public key, PEM")
    key = load_pem_public_key(text.encode())
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, (ec.SECP256R1, ec.SECP384R1)):
        raise BadRequestError("Expected a public key on P-256 or P-384")
    return spki_pem(key)


def check_config_update(update: object, known: Mapping[str, Mapping[str, Any]]) -> None:
    """Check the body of `PATCH /config`; a file may have the unknown fields that the server gave for it (`known`)."""
    _fields(update, "The update", {"reason": str, "files": list, "public-key": str})
    names = set()
    for file in update["files"]:
        name = file.get("name") if isinstance(file, dict) else None
        given = {field: object for field in known.get(str(name), {}) if field not in _CONFIG_FIELDS}
        _fields(file, "A file", {"name": str, "value": str, "unencrypted": bool}, {"on-changed": list, **given})
        if not all(isinstance(command, str) for command in file.get("on-changed", [])):
            raise BadRequestError("on-changed: expected texts")
        if not file["name"] or file["name"] in names:
            raise BadRequestError(f"File name {file['name']!r} is empty, or there twice")
        names.add(file["name"])


def stored_form(file: Mapping[str, Any]) -> dict[str, Any]:
    """Give a file of an update in the form in which `GET /config` shows it."""
    form = {"Value": file["value"], "Unencrypted": file["unencrypted"]}
    if "on-changed" in file:
        form["OnChanged"] = file["on-changed"]
    unknown = {key: value for key, value in file.items() if key not in {"name", "value", "unencrypted", "on-changed"}}
    return {**form, **unknown}


def check_events(events: object) -> None:
    """Check the body of `POST /events`."""
    if not isinstance(events, list):
        raise BadRequestError("Expected an array of events")
    for event in events:
        _fields(event, "An event", {"id": str, "deviceTime": str, "event": dict, "eventType": dict})
        if str(uuid.UUID(event["id"])) != event["id"] or uuid.UUID(event["id"]).version != 4:
            raise BadRequestError(f"Event id {event['id']!r} is no random UUID")
        if not _RFC3339.fullmatch(event["deviceTime"]):
            raise BadRequestError(f"deviceTime {event['deviceTime']!r} is not RFC 3339")
        payload = {"correlationId": str, "success": bool, "targetName": str, "version": str}
        _fields(event["event"], "event", payload, {"details": str})
        _fields(event["eventType"], "eventType", {"id": str, "version": int})


def _fields(value: object, what: str, required: Mapping[str, type], optional: Mapping[str, type] | None = None) -> None:
    if not isinstance(value, dict):
        raise BadRequestError(f"{what}: expected an object")
    allowed = {**required, **(optional or {})}
    missing, unknown = required.keys() - value.keys(), value.keys() - allowed.keys()
    if missing or unknown:
        raise BadRequestError(f"{what}: missing {sorted(missing)}, unknown {sorted(unknown)}")
    for name, content in value.items():
        if not isinstance(content, allowed[name]):
            raise BadRequestError(f"{what}: {name} is {content!r}")
