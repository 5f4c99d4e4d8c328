"""`slots`: the objects of the token, or the key files, as a table (inspection/objects.py explains the uses)."""

import argparse
import contextlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from handler.console.output import print_line
from handler.console.settings import Settings
from handler.console.table import columns, hanging
from handler.console.terminal import Console
from handler.device.configuration.configuration import FILE, Configuration, TokenConfig
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

FIELDS = ("class", "id", "label", "file", "mode", "type", "flags", "fingerprint", "with", "use")


@dataclass(frozen=True)
class Listing:
    """A table with a title and notes. Each row has the same ones of FIELDS; a cell is a text, texts, or None."""

    title: str
    rows: Sequence[dict[str, Any]]
    notes: Sequence[str]

    def lines(self, width: int | None) -> Iterator[str]:
        """Yield its lines for a console of that width."""
        yield from hanging("", self.title, width)
        if self.rows:
            yield from columns(list(self.rows[0]), [list(map(_cell, row.values())) for row in self.rows], width)
        for note in self.notes:
            yield from hanging("note: ", note, width)


def _cell(value: str | Sequence[str] | None) -> str:
    if isinstance(value, str):
        return value
    return " ".join(value or ()) or "-"


def list_slots(configured: Configuration) -> Listing:
    """List the token's objects, or the files. Changes nothing. Raises RequestRefusedError, TokenError, OSError."""
    if configured.token is not None:
        listing = _token_listing(configured, configured.token)
    elif configured.source == FILE and configured.storage is not None:
        listing = _file_listing(configured, configured.storage)
    else:
        raise RequestRefusedError("; ".join(configured.wrong()))
    unnamed = [] if configured.names else ["the configuration names no identity, so nothing is shown as in use"]
    return Listing(listing.title, listing.rows, [*listing.notes, *configured.odd, *unnamed])


def _partners(kind: str, spki: bytes | None, places: Sequence[tuple[Any, str, bytes | None]]) -> list[Any]:
    """Return where the certificates of a key are, or the keys of a certificate; each place has a class and a key."""
    return sorted(
        {place for place, other, key in places if spki and key == spki and (other == "cert") != (kind == "cert")}
    )


# A token


def _token_listing(configured: Configuration, config: TokenConfig) -> Listing:
    """List the objects, after a login if that risks no PIN attempt."""
    from hsm.inventory import items, public_items  # noqa: PLC0415 - only where a token is used

    notes = []
    if unseen := why_no_login(config, configured.storage):
        found = public_items(config.module, config.label)
        notes.append(f"private keys are not shown: {unseen}")
    else:
        with contextlib.closing(token_of(config, configured.storage)) as token:
            found = items(token)
    pending = Snapshot.of(configured.storage).names
    rows = [_row(item, found, configured.names, pending) for item in found]
    return Listing(f"Token {config.label} ({config.module}): {len(rows)} objects", rows, notes)


def _row(
    item: "Item", items: "Sequence[Item]", names: IdentityNames | None, pending: Sequence[IdentityNames]
) -> dict[str, Any]:
    key = _public_key_of(item, items)
    return {
        "class": item.kind,
        "id": item.id if item.id != "-" else None,
        "label": item.label,
        "type": item.key_type,
        "flags": item.flags,
        "fingerprint": fingerprint(key) if key else None,
        "with": _partners(item.kind, key, [(each.id, each.kind, each.spki) for each in items]),
        "use": use_of(item, items, names, pending),
    }


def _public_key_of(item: "Item", items: "Sequence[Item]") -> bytes | None:
    """Return the SPKI (DER) of an object; for a private key that of the only public key with its CKA_ID."""
    if item.spki is not None or item.kind != "private":
        return item.spki
    publics = [each.spki for each in items if (each.kind, each.id) == ("public", item.id)]
    return publics[0] if len(publics) == 1 else None


# Files


def _file_listing(configured: Configuration, storage: Path) -> Listing:
    names, pending = configured.names, Snapshot.of(storage).names
    named = {Path(name) for each in (names, *pending) if each for name in (each.key, each.certificate)}
    matching = {path.absolute() for pattern in ("pkey*.pem", "client*.pem") for path in storage.glob(pattern)}
    files = {path: _read(path) for path in sorted(named | matching)}
    places = [(path, kind, spki) for path, (kind, _, _, spki) in files.items()]
    rows = [
        {
            "file": str(path.relative_to(storage) if path.is_relative_to(storage) else path),
            "class": kind,
            "mode": mode,
            "type": key_type,
            "fingerprint": fingerprint(spki) if spki else None,
            "with": [_short(each, path) for each in _partners(kind, spki, places)],
            "use": _file_use(path, names, pending),
        }
        for path, (kind, mode, key_type, spki) in files.items()
    ]
    return Listing(f"Keys and certificates in {storage}: {len(rows)} files", rows, [])


def _read(path: Path) -> tuple[str, str | None, str | None, bytes | None]:
    """Return the class, mode, type and public key (SPKI, DER) of a file; None for what is unknown."""
    try:
        data, mode = read_regular(path, follow=True), f"{path.stat().st_mode & 0o7777:04o}"
    except FileNotFoundError:
        return "missing", None, None, None
    except OSError:
        return "unreadable", None, None, None
    kind = "private" if b"PRIVATE KEY" in data else "cert"
    try:
        key = (load_pem_private_key(data, None) if kind == "private" else Certificate.of_pem(data)).public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return kind if kind == "private" else "unknown", mode, "unreadable", None
    if key is None:
        return kind, mode, "unreadable", None
    key_type = shown_curve(key.curve) if isinstance(key, ec.EllipticCurvePublicKey) else type(key).__name__.lstrip("_")
    return kind, mode, key_type, key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _short(path: Path, other: Path) -> str:
    """Return the name of a file, without its number if the other file has the same."""
    number = other.name.partition(".")[2]
    return path.name.removesuffix(f".{number}") if "." in number else path.name


def _file_use(path: Path, names: IdentityNames | None, pending: Sequence[IdentityNames]) -> str:
    if names is not None and str(path) in (names.key, names.certificate):
        return IN_USE
    if any(str(path) in (each.key, each.certificate) for each in pending):
        return PENDING
    return LEFTOVER if path.name.startswith(("pkey.", "client.")) and path.name.count(".") > 1 else KEPT


def _json(configured: Configuration, listing: Listing) -> str:
    """Return a listing as JSON: every field for every object, null if it has none."""
    token = configured.token
    content = {
        "source": configured.source,
        "token": token and {"label": token.label, "module": token.module},
        "storage": configured.storage,
        "objects": [dict.fromkeys(FIELDS) | {"flags": ()} | row for row in listing.rows],
        "notes": listing.notes,
    }
    return as_json("slots", content)


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Show the token's objects, or the files. Raises OutputError, RequestRefusedError, TokenError, OSError."""
    configured = Configuration(settings.search_paths, settings.storage, settings.config_url)
    listing = list_slots(configured)
    if options.json:
        print_line(_json(configured, listing))
        return DONE
    for line in listing.lines(Console.of(sys.stdout).width):
        print_line(line)
    return DONE
