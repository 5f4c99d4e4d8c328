"""Bundles of certificates: a certs-only PKCS#7 (RFC 5652 §5.1), or a PEM file (RFC 7468).

Unreadable certificates are skipped with a note.
"""

from hsm import der
from hsm.certificate import Certificate, certificates_of

MAX_CERTIFICATES = 200
"""In a bundle; further ones are skipped with a note."""
_SIGNED_DATA = der.oid("1.2.840.113549.1.7.2")


def certificates_in(data: bytes) -> tuple[list[Certificate], list[str]]:
    """Read the certificates of a certs-only PKCS#7 (DER or BER) in order; return notes too. Raises ValueError."""
    kind, *content = der.first(data).items or [der.first(data)]
    if kind.encoded != _SIGNED_DATA or not content:
        raise ValueError("it is not SignedData")
    signed = der.first(content[0].content)
    # Version, digest algorithms and content come before the certificates, which are optional.
    bags = [each for each in signed.items[3:] if each.tag == der.CONTEXT_0]
    return _sorted_out([_read(each) for bag in bags[:1] for each in bag.items if each.tag == der.SEQUENCE])


def certificates_in_pem(text: bytes) -> tuple[list[Certificate], list[str]]:
    """Read the certificates of a PEM text in order; return notes too."""
    return _sorted_out(list(certificates_of(text)))


def _read(element: der.Element) -> Certificate | ValueError:
    try:
        return Certificate.read(element.encoded)
    except ValueError as error:
        return error


def _sorted_out(found: list[Certificate | ValueError]) -> tuple[list[Certificate], list[str]]:
    certificates, notes = [], []
    for place, each in enumerate(found[:MAX_CERTIFICATES], 1):
        if isinstance(each, ValueError):
            notes.append(f"certificate {place} of {len(found)} is skipped, it cannot be read: {each}")
        else:
            certificates.append(each)
    if len(found) > MAX_CERTIFICATES:
        notes.append(f"{len(found) - MAX_CERTIFICATES} certificates beyond the first {MAX_CERTIFICATES} are skipped")
    return certificates, notes
