"""What is asked: the request file that fioctl writes, and the command-line options that stand over it.

    ESTSERVER=https://4a53f331-6f01-4694-8a97-af253d4d9b63.est.foundries.io:8443/.well-known/est
    PKEYIDS=01,07
    CERTIDS=03,09
    ROTATIONID=certs-1669058841
    EST_CSRATTRS=yes                    (optional)

* One KEY=VALUE per line, LF or CRLF; blank lines, lines that begin with # and blanks around key and value are skipped.
* A key may be given again with the same value only. Unknown keys are warned of.
* ESTSERVER is an https URL with a host and without credentials; ROTATIONID is one that the gateway keeps.
* PKEYIDS and CERTIDS are looked at only where a token is used: two or more distinct ids, 01 to 09 by value.

Whatever breaks a rule is refused, with its place, its value and what is expected.
"""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from handler.errors import RequestRefusedError

from .storage import read_regular
from .url import https_url, shown

log = logging.getLogger(__name__)

MAX_BYTES = 64 * 1024
KNOWN_KEYS = ("ESTSERVER", "PKEYIDS", "CERTIDS", "ROTATIONID", "EST_CSRATTRS")
KEY_IDS, CERTIFICATE_IDS = "01,07", "03,09"
"""What fioctl writes into a request for a token where nobody says otherwise."""
_OPTIONS = {"PKEYIDS": "--pkey-ids", "CERTIDS": "--cert-ids"}
# The open gateway drops events of any other correlation id; the length is ours.
_ROTATION_ID = re.compile(r"[a-zA-Z0-9_-]{1,128}")


@dataclass(frozen=True)
class RotationRequest:
    """A rotation that somebody asks for, checked."""

    rotation_id: str
    est_server: str
    """An https URL as it was given, without a slash at its end."""
    key_ids: tuple[str, ...]
    """Two-digit ids where a token is used; otherwise as given, unchecked and unused."""
    certificate_ids: tuple[str, ...]
    csrattrs: bool = False
    """Whether the EST server is to be asked for /csrattrs."""


@dataclass(frozen=True)
class Overrides:
    """Command-line options; each that is given stands over the request file."""

    est_server: str | None = None
    rotation_id: str | None = None
    pkey_ids: str | None = None
    cert_ids: str | None = None


def with_usual_ids(options: Overrides) -> Overrides:
    """Give the options with the usual ids in the place of those that are not given."""
    return replace(options, pkey_ids=options.pkey_ids or KEY_IDS, cert_ids=options.cert_ids or CERTIFICATE_IDS)


@dataclass(frozen=True)
class Entry:
    """A value and where it stands, for messages: "line 2 of /var/run/secrets/fio-rotate-certs", or an option."""

    value: str
    where: str


def read_request(
    path: Path | None, overrides: Overrides, *, token: bool, default_rotation_id: str | None
) -> RotationRequest | None:
    """Read the request from the file at `path` and the options over it.

    None where there is no such file and no option stands in for it. `token` tells whether the ids are required and
    checked; `default_rotation_id` is taken where none is given. Raises RequestRefusedError.
    """
    options = _options(overrides)
    text = None if path is None else _read(path)
    if text is None and not options:
        return None
    name = str(path) if text is not None else "the command line"
    entries = parse_request(text or "", name)
    for key in sorted(entries.keys() - set(KNOWN_KEYS)):
        log.warning("%s: unknown key %r is left out; known are %s", entries[key].where, key, ", ".join(KNOWN_KEYS))
    return _checked({**entries, **options}, name, token=token, default_rotation_id=default_rotation_id)


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
    """Make a request of values by their keys, which stand in the file `name`. Raises RequestRefusedError."""
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
    """Read the file as text; None where there is none. Raises RequestRefusedError."""
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
    return RotationRequest(
        rotation_id=_rotation_id(entries, name, default_rotation_id),
        est_server=_est_server(entries, name),
        key_ids=_ids(entries, "PKEYIDS", name, token=token),
        certificate_ids=_ids(entries, "CERTIDS", name, token=token),
        csrattrs=_csrattrs(entries),
    )


def _required(entries: Mapping[str, Entry], key: str, name: str, expected: str) -> Entry:
    entry = entries.get(key)
    if entry is None:
        raise RequestRefusedError(f"{name}: {key} is missing: expected {expected}")
    if not entry.value:
        raise RequestRefusedError(f"{entry.where}: {key} is empty: expected {expected}")
    return entry


def _est_server(entries: Mapping[str, Entry], name: str) -> str:
    expected = "an https URL with a host and without credentials, such as https://est.example:8443/.well-known/est"
    entry = _required(entries, "ESTSERVER", name, expected)
    try:
        return https_url(entry.value)
    except ValueError as error:
        raise RequestRefusedError(
            f"{entry.where}: ESTSERVER {shown(entry.value)} is refused, {error}: expected {expected}"
        ) from None


def _rotation_id(entries: Mapping[str, Entry], name: str, default: str | None) -> str:
    if default is not None and "ROTATIONID" not in entries:
        return default
    expected = "1 to 128 letters a-z, A-Z, digits, _ and -, such as certs-1669058841 (the gateway drops other ids)"
    entry = _required(entries, "ROTATIONID", name, expected)
    if not _ROTATION_ID.fullmatch(entry.value):
        raise RequestRefusedError(f"{entry.where}: ROTATIONID {shown(entry.value)} is refused: expected {expected}")
    return entry.value


def _ids(entries: Mapping[str, Entry], key: str, name: str, *, token: bool) -> tuple[str, ...]:
    if not token:
        given = entries[key].value if key in entries else ""
        return tuple(part.strip(" \t") for part in given.split(",")) if given else ()
    from hsm.slots import parse_ids  # noqa: PLC0415 - only where a token is used

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
