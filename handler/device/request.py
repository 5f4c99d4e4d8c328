"""The request: the file that fioctl writes, and the command-line options that override it.

    ESTSERVER=https://4a53f331-6f01-4694-8a97-af253d4d9b63.est.foundries.io:8443/.well-known/est
    PKEYIDS=01,07
    CERTIDS=03,09
    ROTATIONID=certs-1669058841
    EST_CSRATTRS=yes                    (optional)

* One KEY=VALUE per line, LF or CRLF; blank lines, comments (#) and blanks around key and value are skipped.
* A key may be repeated with the same value only. Unknown keys are ignored with a warning.
* ESTSERVER is an https URL with a host and without credentials; ROTATIONID is one that the gateway keeps.
* PKEYIDS and CERTIDS are checked only if a token is used: two or more distinct ids, 01 to 09 by value.

Anything else is refused with its place, its value and what is expected.
"""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from handler.errors import RequestRefusedError, refusals

from .storage import read_regular
from .url import https_url, shown

log = logging.getLogger(__name__)

MAX_BYTES = 64 * 1024
KNOWN_KEYS = ("ESTSERVER", "PKEYIDS", "CERTIDS", "ROTATIONID", "EST_CSRATTRS")
KEY_IDS, CERTIFICATE_IDS = "01,07", "03,09"
"""fioctl's defaults for a token."""
_OPTIONS = {"PKEYIDS": "--pkey-ids", "CERTIDS": "--cert-ids"}
# The open gateway drops events of any other correlation id; the length is ours.
_ROTATION_ID = re.compile(r"[a-zA-Z0-9_-]{1,128}")


@dataclass(frozen=True)
class RotationRequest:
    """A checked request for a rotation."""

    rotation_id: str
    est_server: str
    """An https URL without a trailing slash."""
    key_ids: tuple[str, ...]
    """Two-digit ids if a token is used; else as given, unchecked and unused."""
    certificate_ids: tuple[str, ...]
    csrattrs: bool = False
    """Whether to ask the EST server for /csrattrs first."""


class Overrides(NamedTuple):
    """Command-line options, which override the request file."""

    est_server: str | None = None
    rotation_id: str | None = None
    pkey_ids: str | None = None
    cert_ids: str | None = None


def with_usual_ids(options: Overrides) -> Overrides:
    """Return the options with fioctl's default ids for those that are not given."""
    return options._replace(pkey_ids=options.pkey_ids or KEY_IDS, cert_ids=options.cert_ids or CERTIFICATE_IDS)


class Entry(NamedTuple):
    """A value and where it stands, for messages: "line 2 of /var/run/secrets/fio-rotate-certs", or an option."""

    value: str
    where: str


def read_request(
    path: Path | None, overrides: Overrides, *, token: bool, default_rotation_id: str | None
) -> RotationRequest | None:
    """Read the request from the file at `path` and the options; None if there is neither. Raises RequestRefusedError.

    `token`: require and check the ids. `default_rotation_id` is used if no id is given.
    """
    options = _options(overrides)
    with refusals("file"):
        text = None if path is None else _read(path)
        if text is None and not options:
            return None
        name = str(path) if text is not None else "the command line"
        entries = parse_request(text or "", name)
    for key in sorted(entries.keys() - set(KNOWN_KEYS)):
        log.warning("%s: ignoring unknown key %r; valid keys: %s", entries[key].where, key, ", ".join(KNOWN_KEYS))
    return _checked({**entries, **options}, name, token=token, default_rotation_id=default_rotation_id)


def readable_rotation_id(path: Path, overrides: Overrides) -> str | None:
    """Give the ROTATIONID of a request that is refused; None if there is none, or not just one that is valid."""
    try:
        data = b"" if overrides.rotation_id is not None else read_regular(path, MAX_BYTES, follow=True)
    except OSError:
        return None
    lines = [line.partition("=") for line in data.decode("utf-8-sig", "replace").split("\n")]
    given = {value.removesuffix("\r").strip(" \t") for key, _, value in lines if key.strip(" \t") == "ROTATIONID"}
    only = next(iter(given), "") if len(given) == 1 else overrides.rotation_id or ""
    return only if _ROTATION_ID.fullmatch(only) else None


def parse_request(text: str, name: str) -> dict[str, Entry]:
    """Split the text of a request file into its entries. `name` is the file's. Raises RequestRefusedError."""
    entries: dict[str, Entry] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        where = f"line {number} of {name}"
        content = line.removesuffix("\r").strip(" \t")
        if not content or content.startswith("#"):
            continue
        key, equals, value = (part.strip(" \t") for part in content.partition("="))
        if not equals or not key:
            raise RequestRefusedError(f"{where}: expected KEY=VALUE, found {shown(content)}")
        if re.search(r"[\x00-\x08\x0a-\x1f\x7f]", content):
            raise RequestRefusedError(f"{where}: a control character in {shown(content)}: expected a line of text")
        earlier = entries.get(key)
        if earlier is None:
            entries[key] = Entry(value, where)
        elif earlier.value != value:
            raise RequestRefusedError(
                f"{where}: {key} is {shown(value)}, but {shown(earlier.value)} on {earlier.where}: expected it once"
            )
    return entries


def checked_request(values: Mapping[str, str], name: str, *, token: bool) -> RotationRequest:
    """Make a request of the values in the file `name`, by their keys. Raises RequestRefusedError."""
    return _checked({key: Entry(value, name) for key, value in values.items()}, name, token=token)


def _options(overrides: Overrides) -> dict[str, Entry]:
    given = {
        "ESTSERVER": ("--est-server", overrides.est_server),
        "ROTATIONID": ("--rotation-id", overrides.rotation_id),
        "PKEYIDS": ("--pkey-ids", overrides.pkey_ids),
        "CERTIDS": ("--cert-ids", overrides.cert_ids),
    }
    return {key: Entry(value, f"option {option}") for key, (option, value) in given.items() if value is not None}


def _read(path: Path) -> str | None:
    """Read the file as text; None if there is none. Raises RequestRefusedError."""
    try:
        data = read_regular(path, MAX_BYTES + 1, follow=True)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise RequestRefusedError(f"{path} cannot be read: {error.strerror}; expected a request file") from error
    if len(data) > MAX_BYTES:
        raise RequestRefusedError(f"{path} is larger than {MAX_BYTES} bytes: expected a request file of a few lines")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise RequestRefusedError(
            f"line {line} of {path}: byte 0x{error.object[error.start]:02x} is not UTF-8: expected a text file"
        ) from error


def _checked(
    entries: Mapping[str, Entry], name: str, *, token: bool, default_rotation_id: str | None = None
) -> RotationRequest:
    with refusals("rotationid"):
        rotation_id = _rotation_id(entries, name, default_rotation_id)
    with refusals("estserver"):
        est_server = _est_server(entries, name)
    with refusals("pkeyids"):
        key_ids = _ids(entries, "PKEYIDS", name, token=token)
    with refusals("certids"):
        certificate_ids = _ids(entries, "CERTIDS", name, token=token)
    with refusals("est_csrattrs"):
        return RotationRequest(rotation_id, est_server, key_ids, certificate_ids, _csrattrs(entries))


def _required(entries: Mapping[str, Entry], key: str, name: str, expected: str) -> Entry:
    entry = entries.get(key)
    if entry is None:
        raise RequestRefusedError(f"{name}: {key} is missing: expected {expected}")
    if not entry.value:
        raise RequestRefusedError(f"{entry.where}: {key} is empty: expected {expected}")
    return entry


def _est_server(entries: Mapping[str, Entry], name: str) -> str:
    expected = "an https URL such as https://est.example:8443/.well-known/est"
    entry = _required(entries, "ESTSERVER", name, expected)
    try:
        return https_url(entry.value)
    except ValueError as error:
        raise RequestRefusedError(
            f"{entry.where}: ESTSERVER {shown(entry.value)} is refused: {error}; expected {expected}"
        ) from None


def _rotation_id(entries: Mapping[str, Entry], name: str, default: str | None) -> str:
    if default is not None and "ROTATIONID" not in entries:
        return default
    expected = "1 to 128 letters a-z, A-Z, digits, _ and -, such as certs-1669058841"
    entry = _required(entries, "ROTATIONID", name, expected)
    if not _ROTATION_ID.fullmatch(entry.value):
        raise RequestRefusedError(f"{entry.where}: ROTATIONID {shown(entry.value)} is refused: expected {expected}")
    return entry.value


def _ids(entries: Mapping[str, Entry], key: str, name: str, *, token: bool) -> tuple[str, ...]:
    if not token:
        given = entries[key].value if key in entries else ""
        return tuple(part.strip(" \t") for part in given.split(",")) if given else ()
    from hsm.slots import parse_ids  # noqa: PLC0415 - only if a token is used

    entry = _required(
        entries, key, name, f"two or more distinct ids from 01 to 09, such as 01,07; by hand: {_OPTIONS[key]}"
    )
    try:
        return tuple(str(object_id) for object_id in parse_ids(entry.value, key))
    except ValueError as error:
        raise RequestRefusedError(f"{entry.where}: {error}") from None


def _csrattrs(entries: Mapping[str, Entry]) -> bool:
    entry = entries.get("EST_CSRATTRS", Entry("no", ""))
    if entry.value not in {"yes", "no"}:
        raise RequestRefusedError(f"{entry.where}: EST_CSRATTRS is {shown(entry.value)}: expected yes or no")
    return entry.value == "yes"
