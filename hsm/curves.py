"""Keys on P-256 and P-384: how the two curves are called, their public keys in PKCS#11, and whether a pair is one."""

import os

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils

EC_PARAMS = {
    "secp256r1": bytes.fromhex("06082a8648ce3d030107"),
    "secp384r1": bytes.fromhex("06052b81040022"),
}
"""CKA_EC_PARAMS: the DER of the curve's object identifier (PKCS#11 v2.40 §2.3.3)."""
_CURVES: dict[bytes, ec.EllipticCurve] = {
    EC_PARAMS["secp256r1"]: ec.SECP256R1(),
    EC_PARAMS["secp384r1"]: ec.SECP384R1(),
}
_SHOWN = {"secp256r1": "P-256", "secp384r1": "P-384"}


def octets(curve: ec.EllipticCurve) -> int:
    """Give the length of a coordinate in bytes."""
    return (curve.key_size + 7) // 8


def shown_curve(curve: ec.EllipticCurve) -> str:
    """Give the name by which people know a curve: NIST's, where it is one of the two."""
    return _SHOWN.get(curve.name, curve.name)


def curve_of(params: bytes) -> ec.EllipticCurve | None:
    """Give the curve of a CKA_EC_PARAMS; None for another one."""
    return _CURVES.get(params)


def public_key(curve: ec.EllipticCurve, point: bytes) -> ec.EllipticCurvePublicKey:
    """Read a CKA_EC_POINT. Raises ValueError where it is no point of the curve.

    It is the DER of an OCTET STRING (PKCS#11 v2.40 §2.3.3); some modules give the point itself.
    """
    size = 2 * octets(curve) + 1
    if len(point) == size + 2:
        point = point.removeprefix(bytes([4, size]))
    return ec.EllipticCurvePublicKey.from_encoded_point(curve, point)


def is_pair(key: ec.EllipticCurvePrivateKey) -> bool:
    """Tell, by a signature, whether the public key is the private one's: in a token the two halves are two objects."""
    digest, algorithm = os.urandom(32), ec.ECDSA(utils.Prehashed(hashes.SHA256()))
    try:
        key.public_key().verify(key.sign(digest, algorithm), digest, algorithm)
    except InvalidSignature:
        return False
    return True
