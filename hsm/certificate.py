"""A certificate (X.509, RFC 5280 §4.1) as it was written: only the fields that are needed, each read by itself.

An oddity in any other field does not matter. A field whose content Python cannot hold is None, or raises
ValueError when it is read. Fields are found by position. Only this module and der.py read certificates; they are in hsm
because the key store in a token needs them too.
"""

import base64
import binascii
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from hsm import der
from hsm.der import Element

_PEM = re.compile(rb"-----BEGIN ((?:X509 |TRUSTED )?CERTIFICATE)-----([^-]*)-----END \1-----")
_TIME = re.compile(r"(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)?(?:[.,]\d{1,9})?(Z|[+-]\d{4})?", re.ASCII)
EC_PUBLIC_KEY = "1.2.840.10045.2.1"
_KINDS = {"1.2.840.113549.1.1.1": "RSA"}
_LINE = 64
_SHOWN_SERIAL = 32
"""Bytes of a serial number that are shown: 20 are allowed (RFC 5280 §4.1.2.2)."""


class Certificate(NamedTuple):
    """The parts of a certificate, names and algorithms in DER. Two are equal if all their bytes are."""

    der: bytes
    tbs: bytes
    """The part that is signed."""
    serial_number: Element
    issuer: bytes
    subject: bytes
    spki: bytes
    begin: datetime | None
    """Start and end of validity, UTC; None for a time that Python cannot calculate with."""
    end: datetime | None
    shown_begin: str
    """Start and end of validity for a person, whatever the certificate holds."""
    shown_end: str
    extensions: bytes
    """The content of the list of extensions; empty if there is none."""
    signature_algorithm: bytes
    signature: bytes

    @classmethod
    def read(cls, data: bytes) -> "Certificate":
        """Read a certificate (DER). Raises ValueError if its parts cannot be told apart."""
        whole = der.first(data)
        tbs, algorithm, signature, *_ = _parts(whole, 3, "it")
        parts = _parts(tbs, 6, "what is signed in it")
        if parts[0].tag == der.CONTEXT_0:  # the version, which a certificate of version 1 does not have
            parts = parts[1:]
        serial, _, issuer, validity, subject, spki, *optional = parts
        lists = [each.content for each in optional if each.tag == der.CONTEXT_3]
        (begin, shown_begin), (end, shown_end) = _times(validity)
        return cls(
            der=whole.encoded,
            tbs=tbs.encoded,
            serial_number=serial,
            issuer=issuer.encoded,
            subject=subject.encoded,
            spki=spki.encoded,
            begin=begin,
            end=end,
            shown_begin=shown_begin,
            shown_end=shown_end,
            extensions=der.first(lists[0]).content if lists and lists[0] else b"",
            signature_algorithm=algorithm.encoded,
            signature=signature.content[1:],
        )

    @classmethod
    def of_pem(cls, text: bytes) -> "Certificate":
        """Read the first certificate of a PEM text. Raises ValueError."""
        found = next(certificates_of(text), ValueError("there is no certificate in PEM"))
        if isinstance(found, ValueError):
            raise found
        return found

    @property
    def pem(self) -> str:
        """The certificate in PEM (RFC 7468)."""
        text = base64.b64encode(self.der).decode()
        lines = (text[at : at + _LINE] for at in range(0, len(text), _LINE))
        return "\n".join(["-----BEGIN CERTIFICATE-----", *lines, "-----END CERTIFICATE-----", ""])

    def begins_after(self, moment: datetime) -> bool:
        """Return whether it begins later than that."""
        return self.begin is not None and moment < self.begin

    def has_ended(self, moment: datetime) -> bool:
        """Return whether it has ended by then."""
        return self.end is not None and self.end <= moment

    def public_key(self) -> PublicKeyTypes | None:
        """Return the public key; None if its kind is unknown or it is unreadable."""
        try:
            return load_der_public_key(self.spki)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            return None

    def ec_key(self) -> ec.EllipticCurvePublicKey | None:
        """Return the public key if it is an elliptic-curve key."""
        found = self.public_key()
        return found if isinstance(found, ec.EllipticCurvePublicKey) else None

    def holds(self, key: ec.EllipticCurvePublicKey) -> bool:
        """Return whether it is for that public key."""
        found = self.ec_key()
        return found is not None and _spki(found) == _spki(key)

    @property
    def kind_of_key(self) -> str:
        """The algorithm of the public key: `RSA`, or its object identifier, or that of the curve."""
        try:
            algorithm = der.first(self.spki).items[0].items
            oid = der.dotted(algorithm[0].content)
            if oid == EC_PUBLIC_KEY:
                oid = der.dotted(algorithm[1].content)
        except (ValueError, IndexError):
            return "unreadable"
        return _KINDS.get(oid, oid)

    @property
    def serial(self) -> str:
        """The serial number as openssl(1) shows it, in hexadecimal; a long one is cut."""
        content = self.serial_number.content
        if len(content) > _SHOWN_SERIAL:
            return f"{content[:_SHOWN_SERIAL].hex()}... ({len(content)} bytes)"
        number = int.from_bytes(content, signed=True)
        size = (number.bit_length() + 7) // 8 or 1
        return f"{'-' if number < 0 else ''}{abs(number).to_bytes(size).hex()}"

    def extension(self, oid: str) -> "Extension | None":
        """Return an extension, None if there is none. Raises ValueError if it is unreadable or there twice."""
        wanted = der.oid(oid)
        found = [each for each in der.elements(self.extensions) if each.content.startswith(wanted)]
        if len(found) > 1:
            raise ValueError("it is there twice")
        if not found:
            return None
        _, *parts = found[0].items
        values = [each.content for each in parts if each.tag == der.OCTET_STRING]
        if not values:
            raise ValueError("it has no value")
        critical = any(each.tag == der.BOOLEAN and any(each.content) for each in parts)
        return Extension(values[0], critical)


class Extension(NamedTuple):
    """The value of an extension (DER), and whether it is critical."""

    value: bytes
    critical: bool


def certificates_of(text: bytes) -> Iterator[Certificate | ValueError]:
    """Read the certificates of a PEM text in order, each by itself: an unreadable one is given as its ValueError."""
    for found in _PEM.finditer(text):
        try:
            yield Certificate.read(base64.b64decode(b"".join(found[2].split()), validate=True))
        except binascii.Error:
            yield ValueError("it is not base64")
        except ValueError as error:
            yield error


def _spki(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _parts(element: der.Element, least: int, what: str) -> list[der.Element]:
    parts = element.items
    if len(parts) < least:
        raise ValueError(f"{what} has {len(parts)} parts: expected {least} at least")
    return parts


def _times(validity: Element) -> list[tuple[datetime | None, str]]:
    """Read start and end of the validity: each as a time, if it is one, and as a text for a person."""
    try:
        found = validity.items[:2]
    except ValueError:
        found = []
    times = []
    for each in (found + 2 * [Element(0, b"", b"")])[:2]:
        text = each.content[:_LINE].decode("latin-1")
        time = _time(each.tag, text)
        times.append((time, f"{time:%Y-%m-%d %H:%M} UTC" if time else f"{text!a}, which cannot be calculated with"))
    return times


def _time(tag: int, text: str) -> datetime | None:
    """Read UTCTime or GeneralizedTime, with X.680's fractions, offsets and omitted seconds."""
    century = ("19" if text >= "5" else "20") if tag == der.UTC_TIME else ""  # RFC 5280 §4.1.2.5.1
    found = _TIME.fullmatch(century + text)
    if found is None:
        return None
    year, month, day, hour, minute, second = (int(part or 0) for part in found.groups()[:6])
    zone = found[7] or "Z"
    offset = timedelta() if zone == "Z" else timedelta(hours=int(zone[:3]), minutes=int(zone[0] + zone[3:]))
    try:
        time = datetime(year, month, day, hour, minute, min(second, 59), tzinfo=UTC) - offset
    except (ValueError, OverflowError):
        return None
    return time if time.year > 1 else None  # a few minutes earlier must be a time too
