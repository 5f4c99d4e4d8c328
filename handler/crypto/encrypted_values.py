"""A device's configuration as fioconfig and the gateway keep it: file name -> {Value, Unencrypted, OnChanged, ...}.

Values that are neither empty nor marked as unencrypted are encrypted to the device's key (ECIES). Re-encryption changes
only those: order, OnChanged (a list or null) and unknown fields stay.
"""

import json
import logging
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from handler.errors import RefusedError

from . import bounded_json, ecies

log = logging.getLogger(__name__)

ConfigEntry = dict[str, Any]
ConfigEntries = dict[str, ConfigEntry]

_WIRE_NAMES = {"Value": "value", "Unencrypted": "unencrypted", "OnChanged": "on-changed"}
_NAMES: dict[str, str] = {name.casefold(): name for name in _WIRE_NAMES}
MAX_VALUES = 1000
"""Encrypted values in one configuration: each costs one or two operations of the token."""


def parse_config(data: bytes, name: str) -> ConfigEntries:
    """Read the JSON map as Go's decoder does; `name` is its source, for messages.

    null is no files; names of fields match in any letter case, and the last one counts. Raises RefusedError for
    anything else, and for more than MAX_VALUES encrypted values.
    """
    try:
        config = bounded_json.loads(data)
    except ValueError as error:
        raise RefusedError(
            f"{name} ({len(data)} bytes) is not JSON: expected a map of configuration files ({error})"
        ) from error
    if config is None:
        return {}
    if not isinstance(config, dict):
        raise RefusedError(f"{name} holds no map of configuration files: found {_kind(config)}")
    entries: ConfigEntries = {
        file: _entry(entry, f"{name}: configuration file {file!r}") for file, entry in config.items()
    }
    if (count := sum(map(_is_encrypted, entries.values()))) > MAX_VALUES:
        raise RefusedError(f"{name} holds {count} encrypted values: expected at most {MAX_VALUES}")
    return entries


def dump_config(config: ConfigEntries) -> bytes:
    """Write the map as compact JSON."""
    return json.dumps(config, separators=(",", ":"), allow_nan=False).encode("ascii")


def has_encrypted_values(config: ConfigEntries) -> bool:
    """Return whether any value is encrypted to the device's key."""
    return any(_is_encrypted(entry) for entry in config.values())


def check_readable(config: ConfigEntries, key: ec.EllipticCurvePrivateKey) -> None:
    """Raise RefusedError, naming the file, unless the key decrypts every encrypted value."""
    for file, entry in config.items():
        if _is_encrypted(entry) and _decrypted(entry, key) is None:
            raise RefusedError(
                f"configuration file {file!r} cannot be decrypted with the key in use: a rotation would lose it; "
                "set it again with fioctl, or remove it"
            )


def reencrypt(
    config: ConfigEntries,
    old: ec.EllipticCurvePrivateKey,
    new: ec.EllipticCurvePrivateKey,
    *,
    prefer_new: bool = False,
    lenient: bool = False,
) -> tuple[ConfigEntries, bool]:
    """Return the configuration with every encrypted value encrypted to `new`, and whether any value changed.

    A value that decrypts with `new` stays, one that decrypts with `old` is re-encrypted, any other raises RefusedError
    naming its file. `lenient`: leave it unchanged with a warning, as long as others decrypt; for when the rotation can
    no longer be refused. `prefer_new`: try `new` first, for a resumed call (each try is one operation of a token).
    """
    result: ConfigEntries = {}
    changed = False
    lost = []
    for file, entry in config.items():
        result[file] = dict(entry)
        if not _is_encrypted(entry) or (prefer_new and _decrypted(entry, new) is not None):
            continue
        plaintext = _decrypted(entry, old)
        if plaintext is not None:
            result[file]["Value"] = ecies.encrypt(new.public_key(), plaintext)
            changed = True
        elif prefer_new or _decrypted(entry, new) is None:
            lost.append(
                f"configuration file {file!r} can be decrypted neither with the old key nor with the new one: "
                "set it again with fioctl, or remove it"
            )
    if lost and (not lenient or len(lost) == sum(map(_is_encrypted, config.values()))):
        raise RefusedError("; ".join(lost))
    for said in lost:
        log.warning("%s", said)
    return result, changed


def device_files(config: ConfigEntries) -> list[dict[str, Any]]:
    """Return the configuration in the form of `PATCH /config`, in its order."""
    files = []
    for name, entry in config.items():
        file = {"name": name, "value": entry.get("Value") or "", "unencrypted": bool(entry.get("Unencrypted"))}
        if entry.get("OnChanged"):
            file["on-changed"] = [item or "" for item in entry["OnChanged"]]
        unknown = {field: value for field, value in entry.items() if field not in _WIRE_NAMES}
        files.append({**unknown, **file})
    return files


def _is_encrypted(entry: ConfigEntry) -> bool:
    return bool(entry.get("Value")) and not entry.get("Unencrypted")


def _decrypted(entry: ConfigEntry, key: ec.EllipticCurvePrivateKey) -> bytes | None:
    try:
        return ecies.decrypt(key, entry["Value"])
    except ecies.DecryptError:
        return None


def _entry(found: object, where: str) -> ConfigEntry:
    """Read a file's entry as Go does: null leaves a text or a truth value, and empties a list. Raises RefusedError."""
    if not isinstance(found, dict):
        raise RefusedError(f"{where}: expected Value, Unencrypted and OnChanged, found {_kind(found)}")
    entry: ConfigEntry = {}
    for name, value in ((_NAMES.get(name.casefold(), str(name)), value) for name, value in found.items()):
        entry[name] = entry.get(name) if value is None and name != "OnChanged" else value
    if not entry.keys() & _WIRE_NAMES.keys():
        raise RefusedError(f"{where}: expected Value, Unencrypted and OnChanged, found none of them")
    if not isinstance(entry.get("Value"), str | None):
        raise RefusedError(f"{where}: expected a text as Value, found {_kind(entry['Value'])}")
    if not isinstance(entry.get("Unencrypted"), bool | None):
        raise RefusedError(f"{where}: expected true or false as Unencrypted, found {_kind(entry['Unencrypted'])}")
    commands = entry.get("OnChanged")
    if not isinstance(commands, list | None) or not all(isinstance(item, str | None) for item in commands or ()):
        raise RefusedError(f"{where}: expected a list of texts as OnChanged, found {_kind(commands)}")
    return entry


def _kind(value: object) -> str:
    """Return the kind of a JSON value; the value may be a secret."""
    kinds = {dict: "a map", list: "a list", str: "a text", bool: "true or false", int: "a number", float: "a number"}
    return kinds.get(type(value), "null")
