"""Names of certificates (RFC 5280 §4.1.2.4, §4.2.1.6): compared by value, shown to people, never re-encoded.

Two Names are equal by value if they have the same attributes in the same RDNs in the same order (RFC 5280 §7.1). Texts
of any string type are compared after Unicode's NFKC, ignoring letter case and white space at the ends, with inner white
space as one blank (RFC 4518 §2, without its prohibitions). Anything else is compared byte for byte, and long texts too.
"""

import ipaddress
import unicodedata
from typing import NamedTuple

from hsm import der

_LATIN = "latin-1"  # T61String as OpenSSL reads it; the others are ASCII, or Latin-1 if they are wrong
_ENCODINGS = {12: "utf-8", 28: "utf-32-be", 30: "utf-16-be"} | dict.fromkeys((18, 19, 20, 22, 26, 27), _LATIN)
"""Tags of UTF8String, UniversalString and BMPString; Numeric-, Printable-, T61-, IA5-, Visible- and GeneralString."""
_SHOWN_TYPES = {
    "2.5.4.3": "CN",
    "2.5.4.6": "C",
    "2.5.4.7": "L",
    "2.5.4.8": "ST",
    "2.5.4.9": "STREET",
    "2.5.4.10": "O",
    "2.5.4.11": "OU",
    "0.9.2342.19200300.100.1.1": "UID",
    "0.9.2342.19200300.100.1.25": "DC",
}
_ESCAPED = '\\"+,;<>'
_COMMON_NAME = der.oid("2.5.4.3")
_EMAIL, _DNS, _DIRECTORY, _URI, _ADDRESS = 0x81, 0x82, 0xA4, 0x86, 0x87
MAX_FOLDED = 1024  # bytes of a text: normalisation takes the square of a run of combining characters
MAX_SHOWN = 400
"""Characters of a name that are shown."""


def same(one: bytes, other: bytes) -> bool:
    """Return whether two Names (DER) are equal by value. An unreadable Name equals only the same bytes."""
    return one == other or value(one) == value(other)


def value(name: bytes) -> object:
    """Return a value that is equal for Names that are equal by value."""
    try:
        # An RDN is a SET: the order of its attributes does not matter.
        return tuple(tuple(sorted(map(_attribute_value, rdn.items))) for rdn in der.one(name, der.SEQUENCE).items)
    except ValueError:
        return name


def shown(name: bytes) -> str:
    """Return a Name in RFC 4514's form; characters that do not print or decode are replaced."""
    try:
        parts = [
            "+".join(_shown_attribute(attribute) for attribute in rdn.items)
            for rdn in reversed(der.one(name, der.SEQUENCE).items)
        ]
    except ValueError:
        return f"(unreadable, {len(name)} bytes)"
    return _cut(",".join(parts))


def common_name(name: bytes) -> str:
    """Return the first common name of a Name; empty if it has none."""
    try:
        for rdn in der.one(name, der.SEQUENCE).items:
            for attribute in rdn.items:
                kind, value = _pair(attribute)
                if kind.encoded == _COMMON_NAME:
                    return _cut(_printable(value))
    except ValueError:
        pass
    return ""


class AlternativeName(NamedTuple):
    """One name of a subjectAltName."""

    value: object
    encoded: bytes

    @property
    def shown(self) -> str:
        """The name for a person if it is a text, a Name or an address; else its bytes."""
        found = der.first(self.encoded)
        if found.tag in (_EMAIL, _DNS, _URI):
            return _cut(_safe(found.content.decode("ascii", "replace")))
        if found.tag == _DIRECTORY:
            return shown(found.content)
        if found.tag == _ADDRESS and len(found.content) in (4, 16):
            return str(ipaddress.ip_address(found.content))
        return _cut(self.encoded.hex())


def alternative_names(value: bytes) -> list[AlternativeName]:
    """Read a subjectAltName (DER). The case of host names is ignored (§7.2, §7.5). Raises ValueError."""
    return [AlternativeName(_general(each), each.encoded) for each in der.one(value, der.SEQUENCE).items]


def _general(name: der.Element) -> object:
    if name.tag == _DNS:
        return name.tag, name.content.lower()
    if name.tag == _EMAIL:
        local, at, host = name.content.rpartition(b"@")
        return name.tag, local + at + host.lower()
    if name.tag == _DIRECTORY:
        return name.tag, value(name.content)
    return name.encoded


def _attribute_value(attribute: der.Element) -> tuple[bytes, bool, str]:
    kind, value = _pair(attribute)
    encoding = _ENCODINGS.get(value.tag) if len(value.content) <= MAX_FOLDED else None
    try:
        text = None if encoding is None else value.content.decode(encoding)
    except UnicodeDecodeError:
        text = None
    return kind.encoded, text is not None, value.encoded.hex() if text is None else _folded(text)


def _pair(attribute: der.Element) -> tuple[der.Element, der.Element]:
    kind, value, *more = [*attribute.items, None, None]
    if kind is None or value is None or more != [None, None]:
        raise ValueError("no type and value")
    return kind, value


def _folded(text: str) -> str:
    plain = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(unicodedata.normalize("NFKC", plain).split())


def _shown_attribute(attribute: der.Element) -> str:
    kind, value = _pair(attribute)
    oid = der.dotted(kind.content)
    if value.tag not in _ENCODINGS:
        return f"{oid}={_printable(value)}"
    text = "".join(f"\\{each}" if each in _ESCAPED else each for each in _printable(value))
    if text[:1] in {"#", " "}:
        text = f"\\{text}"
    if text[-1:] == " ":
        text = f"{text[:-1]}\\ "
    return f"{_SHOWN_TYPES.get(oid, oid)}={text}"


def _printable(value: der.Element) -> str:
    encoding = _ENCODINGS.get(value.tag)
    if encoding is None:
        return f"#{value.encoded.hex()}"
    # The meaning of T61String beyond ASCII depends on its writer.
    return _safe(value.content.decode("ascii" if encoding == _LATIN else encoding, "replace"))


def _safe(text: str) -> str:
    return "".join(each if each.isprintable() else "\ufffd" for each in text)


def _cut(text: str) -> str:
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."
