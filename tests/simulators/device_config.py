"""What a device's configuration holds in tests: a file of every kind that fioctl makes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from .gateway import Config


@dataclass(frozen=True)
class PlainFile:
    """A configuration file before it is encrypted. `content` None: a value that is empty on the wire."""

    content: bytes | None
    unencrypted: bool = False
    on_changed: list[str] | None = None
    unknown: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the entry that no version of the client knows yet."""


PlainFiles = Mapping[str, PlainFile]

DEVICE_FILES: PlainFiles = {
    "note": PlainFile(b"plain", unencrypted=True),
    "wireguard-client": PlainFile(
        b"address=10.42.42.2\npubkey=N0tAReal0ne=\nenabled=1\n",
        on_changed=["/usr/share/fioconfig/handlers/factory-config-vpn"],
    ),
}
FACTORY_FILES: PlainFiles = {
    "app.env": PlainFile(
        b"PASSWORD=correct horse\n", on_changed=["/usr/share/fioconfig/handlers/restart-app", "--now"]
    ),
    "plain.txt": PlainFile(b"hello", unencrypted=True),
    "unicode": PlainFile("Grüße, 世界 ✓\n".encode()),
    "empty-file": PlainFile(b""),
    "no-value": PlainFile(None),
    "binary": PlainFile(bytes(range(256))),
    "annotated": PlainFile(b"kept", on_changed=[], unknown={"CreatedBy": {"id": "operator"}, "Revision": 3}),
}


def encrypted(files: PlainFiles, public_key: ec.EllipticCurvePublicKey) -> Config:
    """Give the map as the gateway and config.encrypted hold it, encrypted to a device's key."""
    return {name: _entry(file, public_key) for name, file in files.items()}


def plaintexts(files: PlainFiles) -> dict[str, bytes]:
    """Give what the files hold."""
    return {name: file.content or b"" for name, file in files.items()}


def _entry(file: PlainFile, public_key: ec.EllipticCurvePublicKey) -> dict[str, Any]:
    from handler.crypto import ecies  # noqa: PLC0415 - servers need it for this only

    if file.content is None:
        value = ""
    else:
        value = file.content.decode() if file.unencrypted else ecies.encrypt(public_key, file.content)
    entry = {"Value": value, "Unencrypted": file.unencrypted}
    if file.on_changed is not None:
        entry["OnChanged"] = file.on_changed
    return {**entry, **file.unknown}
