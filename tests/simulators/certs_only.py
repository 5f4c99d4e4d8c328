"""A certs-only PKCS#7 (RFC 5652 §5.1) as the reference server writes it: in the order given.

DER would have the certificates sorted, and cryptography does so; servers do not, and tests want a say in the order.
"""

from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

_SEQUENCE, _SET, _CONTEXT_0, _CONTEXT_1 = 0x30, 0x31, 0xA0, 0xA1
_VERSION_1 = bytes.fromhex("020101")
_SIGNED_DATA = bytes.fromhex("06092a864886f70d010702")
_DATA = bytes.fromhex("06092a864886f70d010701")


def certs_only(certificates: Sequence[x509.Certificate | bytes]) -> bytes:
    """Give the DER-like encoding of a bag of certificates, which may be empty."""
    bag = b"".join(each if isinstance(each, bytes) else each.public_bytes(Encoding.DER) for each in certificates)
    fields = [_VERSION_1, _element(_SET), _element(_SEQUENCE, _DATA), _element(_CONTEXT_0, bag)]
    fields += [_element(_CONTEXT_1), _element(_SET)]
    return _element(_SEQUENCE, _SIGNED_DATA + _element(_CONTEXT_0, _element(_SEQUENCE, b"".join(fields))))


def _element(tag: int, content: bytes = b"") -> bytes:
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + content
