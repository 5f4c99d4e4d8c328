"""Keys on P-256 and P-384: names of the curves, public keys in PKCS#11, and whether two halves are a pair."""

import os

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils

EC_PARAMS = {"secp256r1": bytes.fromhex("06082a8648ce3d030107"), "secp384r1": bytes.fromhex("06052b81040022")}
"""CKA_EC_PARAMS: the DER of the curve's object identifier (PKCS#11 v2.40 §2.3.3)."""
CURVES = {EC_PARAMS[curve.name]: curve for curve in (ec.SECP256R1(), ec.SECP384R1())}
"""The curve of a CKA_EC_PARAMS."""
_SHOWN = {"secp256r1": "P-256", "secp384r1": "P-384"}


def octets(curve: ec.EllipticCurve) -> int:
    """Return the bytes of a coordinate."""
    return (curve.key_size + 7) // 8


def shown_curve(curve: ec.EllipticCurve) -> str:
    """Return NIST's name of the two curves (P-256), else the curve's own."""
    return _SHOWN.get(curve.name, curve.name)


def public_key(curve: ec.EllipticCurve, point: bytes) -> ec.EllipticCurvePublicKey:
    """Read a CKA_EC_POINT. Raises ValueError if it is no point of the curve.

    It is the DER of an OCTET STRING (PKCS#11 v2.40 §2.3.3); some modules give the point itself.
    """
    size = 2 * octets(curve) + 1
    if len(point) == size + 2:
        point = point.removeprefix(bytes([4, size]))
    return ec.EllipticCurvePublicKey.from_encoded_point(curve, point)


def is_pair(key: ec.EllipticCurvePrivateKey) -> bool:
    """Return whether the two halves belong together, by a signature: in a token they are two objects."""
    digest, algorithm = os.urandom(32), ec.ECDSA(utils.Prehashed(hashes.SHA256()))
    try:
        key.public_key().verify(key.sign(digest, algorithm), digest, algorithm)
    except InvalidSignature:
        return False
    return True
