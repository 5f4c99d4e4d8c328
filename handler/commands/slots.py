"""`slots`: the objects of the token, or the key files, as a table (inspection/objects.py explains the uses)."""

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from handler.console.output import print_line
from handler.console.settings import Settings
from handler.console.table import columns, hanging
from handler.console.terminal import Console
from handler.device.configuration.configuration import TOKEN, Configuration, TokenConfig
from handler.device.keystore import IdentityNames
from handler.device.storage import read_regular
from handler.errors import RequestRefusedError
from handler.exit_status import DONE
from handler.inspection.identity import token_of
from handler.inspection.objects import IN_USE, KEPT, LEFTOVER, PENDING, fingerprint, use_of
from handler.inspection.pin_safety import why_no_login
from handler.journal.snapshot import Snapshot
from hsm.certificate import Certificate
from hsm.curves import shown_curve

from .formats.envelope import as_json

if TYPE_CHECKING:
    from hsm.inventory import Item


@dataclass(frozen=True)
class Listing:
    """A table with a title and notes."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()

    def lines(self, width: int | None) -> Iterator[str]:
        """Yield its lines for a console of that width."""
        yield from hanging("", self.title, width)
        if self.rows:
            yield from columns(self.header, self.rows, width)
        for note in self.notes:
            yield from hanging("note: ", note, width)


def list_slots(configured: Configuration) -> Listing:
    """List the token's objects, or the files. Changes nothing. Raises RequestRefusedError, TokenError, OSError."""
    if configured.source == TOKEN:
        if configured.token is None:
            raise RequestRefusedError("; ".join(configured.wrong()))
        return _token_listing(configured, configured.token)
    if configured.storage is None or configured.source is None:
        raise RequestRefusedError("; ".join(configured.wrong()))
    return _file_listing(configured, configured.storage)


def _unsaid(configured: Configuration) -> list[str]:
    """Say what is odd or missing in the configuration."""
    unnamed = [] if configured.names else ["the configuration names no identity, so nothing is shown as in use"]
    return [*configured.odd, *unnamed]


# A token


def _token_listing(configured: Configuration, config: TokenConfig) -> Listing:
    items, notes = _items(config, configured.storage)
    pending = Snapshot.of(configured.storage).names
    rows = tuple(_row(item, items, configured.names, pending) for item in items)
    title = f"Token {config.label} ({config.module}): {len(items)} objects"
    notes += _unsaid(configured)
    return Listing(title, ("class", "id", "label", "type", "flags", "fingerprint", "with", "use"), rows, tuple(notes))


def _items(config: TokenConfig, storage: Path | None) -> "tuple[list[Item], list[str]]":
    """List the objects, after a login if that risks no PIN attempt; return notes on what is not visible."""
    from hsm.inventory import items, public_items  # noqa: PLC0415 - only where a token is used

    unseen = why_no_login(config, storage)
    if unseen is None:
        with contextlib.closing(token_of(config, storage)) as token:
            return items(token), []
    return public_items(config.module, config.label), [f"private keys are not shown: {unseen}"]


def _row(
    item: "Item", items: "Sequence[Item]", names: IdentityNames | None, pending: Sequence[IdentityNames]
) -> tuple[str, ...]:
    key = _public_key_of(item, items)
    other = _partner(item, items, key)
    use = use_of(item, items, names, pending)
    return item.kind, item.id, item.label, item.key_type, " ".join(item.flags) or "-", fingerprint(key), other, use


def _public_key_of(item: "Item", items: "Sequence[Item]") -> bytes | None:
    """Return the SPKI (DER) of an object; for a private key that of the only public key with its CKA_ID."""
    if item.spki is not None or item.kind != "private":
        return item.spki
    beside = [each for each in items if each.id == item.id and each.kind in ("public", "private")]
    publics = [each.spki for each in beside if each.kind == "public"]
    return publics[0] if len(publics) == 1 and len(beside) == 2 else None  # noqa: PLR2004 - one pair


def _partner(item: "Item", items: "Sequence[Item]", key: bytes | None) -> str:
    """Name the certificates of a key, or the keys of a certificate, by their ids."""
    wanted = ("public",) if item.kind == "cert" else ("cert",)
    ids = {each.id for each in items if key is not None and each.kind in wanted and each.spki == key}
    return " ".join(sorted(ids)) or "-"


# Files


def _file_listing(configured: Configuration, storage: Path) -> Listing:
    names, pending = configured.names, Snapshot.of(storage).names
    found = {
        Path(name)
        for identity in (names, *pending)
        if identity
        for name in (identity.key, identity.certificate)
        if name
    }
    found |= {path.absolute() for pattern in ("pkey*.pem", "client*.pem") for path in storage.glob(pattern)}
    files = [_File.read(path) for path in sorted(found)]
    rows = tuple(
        (
            str(file.path.relative_to(storage) if file.path.is_relative_to(storage) else file.path),
            file.kind,
            file.mode,
            file.key_type,
            fingerprint(file.spki),
            _file_partner(file, files),
            _file_use(file.path, names, pending),
        )
        for file in files
    )
    notes = tuple(_unsaid(configured))
    header = ("file", "class", "mode", "type", "fingerprint", "with", "use")
    return Listing(f"Keys and certificates in {storage}: {len(files)} files", header, rows, notes)


@dataclass(frozen=True)
class _File:
    path: Path
    kind: str
    mode: str
    key_type: str
    spki: bytes | None

    @classmethod
    def read(cls, path: Path) -> "_File":
        try:
            data, mode = read_regular(path, follow=True), f"{path.stat().st_mode & 0o7777:04o}"
        except FileNotFoundError:
            return cls(path, "missing", "-", "-", None)
        except OSError:
            return cls(path, "unreadable", "-", "-", None)
        private = b"PRIVATE KEY" in data
        try:
            key = load_pem_private_key(data, None).public_key() if private else Certificate.of_pem(data).public_key()
        except (ValueError, TypeError, UnsupportedAlgorithm):
            return cls(path, "private" if private else "unknown", mode, "unreadable", None)
        if key is None:
            return cls(path, "cert", mode, "unreadable", None)
        kind = shown_curve(key.curve) if isinstance(key, ec.EllipticCurvePublicKey) else type(key).__name__.lstrip("_")
        spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return cls(path, "private" if private else "cert", mode, kind, spki)


def _file_partner(file: _File, files: Sequence[_File]) -> str:
    """Name the files with the same public key, without their number if it is the same."""
    alike = [each.path for each in files if each.kind != file.kind and file.spki and each.spki == file.spki]
    number = file.path.name.partition(".")[2]
    numbered = "." in number
    names = (path.name.removesuffix(f".{number}") if numbered else path.name for path in alike)
    return " ".join(names) or "-"


def _file_use(path: Path, names: IdentityNames | None, pending: Sequence[IdentityNames]) -> str:
    if names is not None and str(path) in (names.key, names.certificate):
        return IN_USE
    if any(str(path) in (each.key, each.certificate) for each in pending):
        return PENDING
    return LEFTOVER if path.name.startswith(("pkey.", "client.")) and path.name.count(".") > 1 else KEPT


_LISTS = ("flags", "with")
_FIELDS = ("class", "id", "label", "file", "mode", "type", "flags", "fingerprint", "with", "use")


def _json(configured: Configuration, listing: Listing) -> str:
    """Return a listing as JSON: every field for every object, null if it has none."""
    objects = []
    for row in listing.rows:
        known = {name: None if cell == "-" else cell for name, cell in zip(listing.header, row, strict=True)}
        lists = {name: (known.get(name) or "").split() for name in _LISTS}
        objects.append(dict.fromkeys(_FIELDS) | known | lists)
    token = configured.token
    content = {
        "source": configured.source,
        "token": None if token is None else {"label": token.label, "module": token.module},
        "storage": None if configured.storage is None else str(configured.storage),
        "objects": objects,
        "notes": list(listing.notes),
    }
    return as_json("slots", content)


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Show the token's objects, or the files. Raises OutputError, RequestRefusedError, TokenError, OSError."""
    configured = Configuration(settings.search_paths, settings.storage, settings.config_url)
    listing = list_slots(configured)
    if options.json:
        print_line(_json(configured, listing))
        return DONE
    for line in listing.lines(Console.of(sys.stdout, os.environ).width):
        print_line(line)
    return DONE
