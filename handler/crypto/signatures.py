"""Whether a certificate is signed by the key of another (RFC 5280 §4.1.1.3, RFC 4055, RFC 5758, RFC 8410)."""

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa

from hsm import der
from hsm.certificate import Certificate

_HASHES: dict[str, hashes.HashAlgorithm] = {
    "1.3.14.3.2.26": hashes.SHA1(),  # noqa: S303 - signed by others
    "2.16.840.1.101.3.4.2.4": hashes.SHA224(),
    "2.16.840.1.101.3.4.2.1": hashes.SHA256(),
    "2.16.840.1.101.3.4.2.2": hashes.SHA384(),
    "2.16.840.1.101.3.4.2.3": hashes.SHA512(),
}
_ECDSA = dict(
    zip(("1.2.840.10045.4.1", *(f"1.2.840.10045.4.3.{n}" for n in (1, 2, 3, 4))), _HASHES.values(), strict=True)
)
_RSA = dict(zip((f"1.2.840.113549.1.1.{n}" for n in (5, 14, 11, 12, 13)), _HASHES.values(), strict=True))
_PSS = "1.2.840.113549.1.1.10"
_EDWARDS = {"1.3.101.112", "1.3.101.113"}
_NAMES = {oid: f"ECDSA with {digest.name}" for oid, digest in _ECDSA.items()} | {
    oid: f"RSA with {digest.name}" for oid, digest in _RSA.items()
}


def is_signed_by(issued: Certificate, issuer: Certificate) -> bool | None:
    """Return whether the issuer's key made the signature; None if the algorithm or key is unknown."""
    key = issuer.public_key()
    try:
        algorithm, *parameters = der.one(issued.signature_algorithm, der.SEQUENCE).items
        oid = der.dotted(algorithm.content)
        if key is None or oid not in {*_ECDSA, *_RSA, _PSS, *_EDWARDS}:
            return None
        if oid in _ECDSA and isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(issued.signature, issued.tbs, ec.ECDSA(_ECDSA[oid]))
        elif (oid in _RSA or oid == _PSS) and isinstance(key, rsa.RSAPublicKey):
            key.verify(issued.signature, issued.tbs, *_rsa(oid, parameters))
        elif oid in _EDWARDS and isinstance(key, (ed25519.Ed25519PublicKey, ed448.Ed448PublicKey)):
            key.verify(issued.signature, issued.tbs)
        else:  # no key of that kind makes such a signature
            return False
    except InvalidSignature:
        return False
    except (ValueError, TypeError, LookupError, UnsupportedAlgorithm):
        return None
    return True


def algorithm_of(certificate: Certificate) -> str:
    """Return the algorithm of a certificate's signature for a person."""
    try:
        oid = der.dotted(der.one(certificate.signature_algorithm, der.SEQUENCE).items[0].content)
    except (ValueError, IndexError):
        return "an unreadable algorithm"
    return _NAMES.get(oid, oid)


def _rsa(oid: str, parameters: list[der.Element]) -> tuple[padding.AsymmetricPadding, hashes.HashAlgorithm]:
    if oid != _PSS:
        return padding.PKCS1v15(), _RSA[oid]
    digest = _HASHES["1.3.14.3.2.26"]  # SHA-1, the default (RFC 4055 §3.1)
    for part in parameters[0].items if parameters else ():
        if part.tag == der.CONTEXT_0:
            digest = _HASHES[der.dotted(part.items[0].items[0].content)]
    return padding.PSS(padding.MGF1(digest), padding.PSS.AUTO), digest
