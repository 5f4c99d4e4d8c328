"""The trust anchors of the device. Nothing renews them, so `check` and `status` warn long before one expires."""

import contextlib
import hashlib
from collections.abc import Sequence
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
    """Read each distinct certificate of the CA file; () if it cannot be read. `certificate` is the device's own."""
    with contextlib.suppress(RenewalError):
        found = {each.der: judged(each, certificate, now) for each in configured.anchors()[0]}
        return tuple(each for each in found.values() if each is not None)
    return ()


def judged(anchor: Certificate, certificate: Certificate | None, now: datetime) -> Anchor | None:
    """Judge whether an anchor has to be replaced; None if its end of validity cannot be read."""
    end, warning = anchor.end, None
    own = None if certificate is None else certificate.end
    if end is None:
        return None
    if end <= now:
        warning = f"ended {end:%Y-%m-%d}"
    elif end - now < EARLY:
        warning = f"ends {end:%Y-%m-%d}, in {(end - now).days} days"
    elif own is not None and end < own:
        warning = f"ends {end:%Y-%m-%d}, before the device's certificate ({own:%Y-%m-%d})"
    return Anchor(shown(anchor.subject), hashlib.sha256(anchor.der).hexdigest(), end, warning)


def roots_among(
    found: Sequence[Certificate], trusted: Sequence[Certificate]
) -> tuple[list[Certificate], list[Certificate]]:
    """Return the self-issued certificates of an EST server's /cacerts, and those of them that are not trusted."""
    known = {(each.subject, each.spki) for each in trusted}
    roots = [each for each in found if each.subject == each.issuer]
    return roots, [each for each in roots if (each.subject, each.spki) not in known]
