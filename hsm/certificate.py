"""A certificate (X.509, RFC 5280 §4.1) as somebody else wrote it: the fields that are needed, each read by itself.

What nobody here needs is not read: no oddity in it matters. Where a field says nothing that Python can hold, it is None
or a ValueError of the one who asks for that field. Fields are found by their place. This module and der.py alone read
certificates. They stand here, below everything, because the key store in a token needs them too.
"""

import base64
import binascii
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from hsm import der
from hsm.der import Element

_PEM = re.compile(rb"-----BEGIN ((?:X509 |TRUSTED )?CERTIFICATE)-----([^-]*)-----END \1-----")
_TIME = re.compile(r"(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)?(?:[.,]\d{1,9})?(Z|[+-]\d{4})?", re.ASCII)
_KINDS = {"1.2.840.113549.1.1.1": "RSA"}
_LINE = 64
_SHOWN_SERIAL = 32
"""Bytes of a serial number that are shown: 20 are allowed (RFC 5280 §4.1.2.2)."""


@dataclass(frozen=True)
class Certificate:
    """The parts of a certificate. Two are equal if all their bytes are."""

    der: bytes
    tbs: bytes = field(compare=False, repr=False)
    """What is signed."""
    serial_number: Element = field(compare=False, repr=False)
    issuer: bytes = field(compare=False, repr=False)
    """A Name (DER)."""
    subject: bytes = field(compare=False, repr=False)
    """A Name (DER)."""
    spki: bytes = field(compare=False, repr=False)
    """SubjectPublicKeyInfo (DER), as it stands there."""
    validity: bytes = field(compare=False, repr=False)
    extensions: bytes = field(compare=False, repr=False)
    """The content of the list of extensions; empty where there is none."""
    signature_algorithm: bytes = field(compare=False, repr=False)
    """AlgorithmIdentifier (DER)."""
    signature: bytes = field(compare=False, repr=False)

    @classmethod
    def read(cls, data: bytes) -> "Certificate":
        """Read a certificate (DER). Raises ValueError where its parts cannot be told apart."""
        whole = der.first(data)
        tbs, algorithm, signature, *_ = _parts(whole, 3, "it")
        parts = _parts(tbs, 6, "what is signed in it")
        if parts[0].tag == der.CONTEXT_0:  # the version, which a certificate of version 1 does not have
            parts = parts[1:]
        serial, _, issuer, validity, subject, spki, *optional = parts
        lists = [each.content for each in optional if each.tag == der.CONTEXT_3]
        return cls(
            der=whole.encoded,
            tbs=tbs.encoded,
            serial_number=serial,
            issuer=issuer.encoded,
            subject=subject.encoded,
            spki=spki.encoded,
            validity=validity.encoded,
            extensions=der.first(lists[0]).content if lists and lists[0] else b"",
            signature_algorithm=algorithm.encoded,
            signature=signature.content[1:],
        )

    @classmethod
    def of_pem(cls, text: bytes) -> "Certificate":
        """Read the first certificate of a PEM text. Raises ValueError."""
        for found in certificates_of(text):
            if isinstance(found, ValueError):
                raise found
            return found
        raise ValueError("there is no certificate in PEM")

    @property
    def pem(self) -> str:
        """The certificate in PEM (RFC 7468)."""
        text = base64.b64encode(self.der).decode()
        lines = (text[at : at + _LINE] for at in range(0, len(text), _LINE))
        return "\n".join(["-----BEGIN CERTIFICATE-----", *lines, "-----END CERTIFICATE-----", ""])

    @property
    def begin(self) -> datetime | None:
        """When it begins to be valid, UTC; None where that is no time, or one that Python cannot calculate with."""
        return _time(*_time_text(self.validity, 0))

    @property
    def end(self) -> datetime | None:
        """When it ends to be valid, UTC; None likewise."""
        return _time(*_time_text(self.validity, 1))

    @property
    def shown_begin(self) -> str:
        """When it begins to be valid, for a person, whatever stands there."""
        return _shown(self.begin, self.validity, 0)

    @property
    def shown_end(self) -> str:
        """When it ends to be valid, for a person, whatever stands there."""
        return _shown(self.end, self.validity, 1)

    def begins_after(self, moment: datetime) -> bool:
        """Tell whether it says that it begins later than that."""
        return self.begin is not None and moment < self.begin

    def has_ended(self, moment: datetime) -> bool:
        """Tell whether it says that it has ended by then."""
        return self.end is not None and self.end <= moment

    def public_key(self) -> PublicKeyTypes | None:
        """Give the public key; None where it is of a kind that is not known here, or none."""
        try:
            return load_der_public_key(self.spki)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            return None

    def ec_key(self) -> ec.EllipticCurvePublicKey | None:
        """Give the public key where it is one on a curve."""
        found = self.public_key()
        return found if isinstance(found, ec.EllipticCurvePublicKey) else None

    def holds(self, key: ec.EllipticCurvePublicKey) -> bool:
        """Tell whether it is for that public key."""
        found = self.ec_key()
        return found is not None and _spki(found) == _spki(key)

    @property
    def kind_of_key(self) -> str:
        """Name the algorithm of the public key: `RSA`, or its object identifier."""
        try:
            oid = der.dotted(der.first(self.spki).items[0].items[0].content)
        except (ValueError, IndexError):
            return "unreadable"
        return _KINDS.get(oid, oid)

    @property
    def serial(self) -> str:
        """The serial number as openssl(1) shows it, whole bytes in hexadecimal; a long one is cut."""
        content = self.serial_number.content
        if len(content) > _SHOWN_SERIAL:
            return f"{content[:_SHOWN_SERIAL].hex()}... ({len(content)} bytes)"
        number = int.from_bytes(content, signed=True)
        size = (number.bit_length() + 7) // 8 or 1
        return f"{'-' if number < 0 else ''}{abs(number).to_bytes(size).hex()}"

    def extension(self, oid: str) -> "Extension | None":
        """Give an extension. Raises ValueError where it cannot be read, or is there twice."""
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


@dataclass(frozen=True)
class Extension:
    """The value of an extension (DER), and whether it is critical."""

    value: bytes
    critical: bool


def certificates_of(text: bytes) -> Iterator[Certificate | ValueError]:
    """Read the certificates of a PEM text in their order, each by itself: one that cannot be read is its ValueError."""
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


def _time_text(validity: bytes, index: int) -> tuple[int, str]:
    """Give the tag and the text of one of the two times."""
    try:
        found = der.first(validity).items[index]
    except (ValueError, IndexError):
        return 0, ""
    return found.tag, found.content[:_LINE].decode("latin-1")


def _time(tag: int, text: str) -> datetime | None:
    """Read UTCTime or GeneralizedTime, with what X.680 has beyond RFC 5280 §4.1.2.5: fractions, offsets, no seconds."""
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
    return time if time.year > 1 else None  # a few minutes before it must be a time too


def _shown(time: datetime | None, validity: bytes, index: int) -> str:
    if time is not None:
        return f"{time:%Y-%m-%d %H:%M} UTC"
    return f"{_time_text(validity, index)[1]!a}, which is no time to calculate with"
