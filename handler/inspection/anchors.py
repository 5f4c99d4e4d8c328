"""The trust anchors of the device: nothing renews them, so who looks is warned long before one ends."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from handler.device.configuration.configuration import Configuration
from handler.errors import RenewalError

EARLY = timedelta(days=90)


@dataclass(frozen=True)
class Anchor:
    """One certificate of the CA file."""

    subject: str
    fingerprint: str
    """SHA-256 of the certificate, hexadecimal."""
    not_after: datetime
    warning: str | None = None
    """Why it is time to replace it."""


def read_anchors(configured: Configuration, certificate: x509.Certificate | None, now: datetime) -> tuple[Anchor, ...]:
    """Read the CA file, each certificate once; none if it cannot be read. `certificate` is the device's own."""
    found = {}
    with contextlib.suppress(RenewalError):
        for each in configured.anchors():
            with contextlib.suppress(ValueError):  # its Subject cannot be read, nobody needs it
                anchor = judged(each, certificate, now)
                found[anchor.fingerprint] = anchor
    return tuple(found.values())


def judged(anchor: x509.Certificate, certificate: x509.Certificate | None, now: datetime) -> Anchor:
    """Say whether it is time to replace an anchor. Raises ValueError (its Subject cannot be read)."""
    end, warning = anchor.not_valid_after_utc, None
    if end <= now:
        warning = f"ended {end:%Y-%m-%d}"
    elif end - now < EARLY:
        warning = f"ends {end:%Y-%m-%d}, in {(end - now).days} days"
    elif certificate is not None and end < certificate.not_valid_after_utc:
        warning = f"ends {end:%Y-%m-%d}, before the device's certificate ({certificate.not_valid_after_utc:%Y-%m-%d})"
    return Anchor(anchor.subject.rfc4514_string(), anchor.fingerprint(SHA256()).hex(), end, warning)


def roots_among(
    found: Sequence[x509.Certificate], trusted: Sequence[x509.Certificate]
) -> tuple[list[x509.Certificate], list[x509.Certificate]]:
    """Give the self-issued certificates of an EST server's /cacerts, and those that the device does not trust."""
    known = {_name_and_key(each) for each in trusted}
    roots = [each for each in found if each.subject == each.issuer]
    return roots, [each for each in roots if _name_and_key(each) not in known]


def _name_and_key(certificate: x509.Certificate) -> tuple[bytes, bytes]:
    key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return certificate.subject.public_bytes(), key
