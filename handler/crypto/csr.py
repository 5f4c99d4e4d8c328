"""The CSR of a new key (PKCS#10, RFC 2986), assembled from the bytes of the current certificate. Pure."""

from collections.abc import Iterable
from typing import NamedTuple

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from handler.errors import RequestRefusedError, ServerRefusedError
from hsm import der
from hsm.certificate import Certificate, Extension

_CURVES = {"secp256r1", "secp384r1"}
USAGES = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
"""The first bits of KeyUsage (RFC 5280 §4.2.1.3): a client's, not a CA's."""
_SIGNATURES: dict[int, tuple[bytes, hashes.HashAlgorithm]] = {
    256: (der.oid("1.2.840.10045.4.3.2"), hashes.SHA256()),
    384: (der.oid("1.2.840.10045.4.3.3"), hashes.SHA384()),
    512: (der.oid("1.2.840.10045.4.3.4"), hashes.SHA512()),
}
KEY_USAGE, ALTERNATIVE_NAME, BASIC_CONSTRAINTS = "2.5.29.15", "2.5.29.17", "2.5.29.19"
EXTENDED_KEY_USAGE, CLIENT_AUTH = "2.5.29.37", "1.3.6.1.5.5.7.3.2"
EXTENSION_REQUEST = "1.2.840.113549.1.9.14"
_TRUE = der.encoded(der.BOOLEAN, b"\xff")


class CsrAttributes(NamedTuple):
    """What an EST server wants in a CSR, besides what a renewal holds anyway."""

    usages: frozenset[str] = frozenset()
    """Of USAGES."""
    extended_usages: tuple[str, ...] = ()
    """Dotted OIDs."""
    hash_bits: int | None = None
    """The signature's hash: 256, 384 or 512."""
    keys: frozenset[str] = frozenset()
    """Kinds of keys or names of curves; empty for any."""

    def check_curve(self, curve: str) -> None:
        """Raise ServerRefusedError if the server wants another key than one on that curve."""
        if self.keys and not self.keys & {curve, "EC"}:
            raise ServerRefusedError(
                f"the EST server asks (in /csrattrs) for a key of the kind {' or '.join(sorted(self.keys))}: this "
                f"device makes one on {curve}, like its current key; have the server accept such keys",
                200,
            )


NOTHING = CsrAttributes()


def build_csr(current: Certificate, key: ec.EllipticCurvePrivateKey, wanted: CsrAttributes = NOTHING) -> bytes:
    """Return the CSR (DER) that renews `current` for `key`, a key on P-256 or P-384 that may stay in its token.

    Subject and subjectAltName are the bytes of `current` (RFC 7030 §4.2.2); the usages are the reference client's and
    those that the server wants. Raises RequestRefusedError, and ServerRefusedError if the server wants another key.
    """
    wanted.check_curve(key.curve.name)
    if key.curve.name not in _CURVES:
        raise RequestRefusedError(f"the new key is on {key.curve.name}: expected P-256 or P-384")
    try:
        names = current.extension(ALTERNATIVE_NAME)
    except ValueError as error:
        raise RequestRefusedError(
            f"the current certificate cannot be renewed: its subjectAltName is unreadable ({error}); register the "
            "device again"
        ) from error
    others = [oid for oid in wanted.extended_usages if oid != CLIENT_AUTH]
    purposes = der.encoded(der.SEQUENCE, *map(der.oid, (CLIENT_AUTH, *others)))
    extensions = [
        _extension(KEY_USAGE, Extension(_key_usage(wanted.usages), critical=True)),
        _extension(EXTENDED_KEY_USAGE, Extension(purposes, critical=True)),
        *([_extension(ALTERNATIVE_NAME, names)] if names else []),
    ]
    requested = der.encoded(der.SET, der.encoded(der.SEQUENCE, *extensions))
    info = der.encoded(
        der.SEQUENCE,
        der.encoded(der.INTEGER, b"\0"),
        current.subject,
        spki_der(key.public_key()),
        der.encoded(der.CONTEXT_0, der.encoded(der.SEQUENCE, der.oid(EXTENSION_REQUEST), requested)),
    )
    # SHA-256 for P-384 too: estserver takes only the signature algorithm of its CA, ECDSA with SHA-256.
    algorithm, digest = _SIGNATURES[wanted.hash_bits or 256]
    signature = der.encoded(der.BIT_STRING, b"\0", key.sign(info, ec.ECDSA(digest)))
    return der.encoded(der.SEQUENCE, info, der.encoded(der.SEQUENCE, algorithm), signature)


def spki_pem(public_key: ec.EllipticCurvePublicKey) -> str:
    """Return the public key as SubjectPublicKeyInfo, PEM, as the gateway expects it."""
    return public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode("ascii")


def spki_der(public_key: ec.EllipticCurvePublicKey) -> bytes:
    """Return the public key as SubjectPublicKeyInfo, DER."""
    return public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _extension(oid: str, extension: Extension) -> bytes:
    critical = _TRUE if extension.critical else b""
    return der.encoded(der.SEQUENCE, der.oid(oid), critical, der.encoded(der.OCTET_STRING, extension.value))


def _key_usage(usages: Iterable[str]) -> bytes:
    """Return the value of the extension: digitalSignature and those usages."""
    places = {0, *map(USAGES.index, usages)}
    bits = sum(0x80 >> place for place in places)
    return der.encoded(der.BIT_STRING, bytes([7 - max(places), bits]))
