"""The trust anchors of the device. Nothing renews them, so `check` and `status` warn long before one expires."""

import contextlib
import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta

from handler.crypto.names import shown
from handler.device.configuration.configuration import Configuration
from handler.errors import RenewalError
from hsm.certificate import Certificate

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


def read_anchors(configured: Configuration, certificate: Certificate | None, now: datetime) -> tuple[Anchor, ...]:
    """Judge each distinct certificate of the CA file; () if it cannot be read. `certificate` is the device's own."""
    found: dict[bytes, Anchor] = {}
    with contextlib.suppress(RenewalError):
        for each in configured.anchors()[0]:
            if each.end is not None:
                mark, warning = hashlib.sha256(each.der).hexdigest(), _warning(each.end, certificate, now)
                found[each.der] = Anchor(shown(each.subject), mark, each.end, warning)
    return tuple(found.values())


def _warning(end: datetime, certificate: Certificate | None, now: datetime) -> str | None:
    own = certificate.end if certificate else None
    if end <= now:
        return f"ended {end:%Y-%m-%d}"
    if end - now < EARLY:
        return f"ends {end:%Y-%m-%d}, in {(end - now).days} days"
    if own is not None and end < own:
        return f"ends {end:%Y-%m-%d}, before the device's certificate ({own:%Y-%m-%d})"
    return None
