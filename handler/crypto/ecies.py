"""ECIES of configuration values, like fioctl's and fioconfig's.

A value is base64 of R || IV || C || T:

* R: ephemeral public key, an uncompressed point; Z: x coordinate of the shared point, full length
* K = KDF(Z): concatenation KDF of NIST SP 800-56A §5.8.1 with empty OtherInfo
* C: AES-CTR under the first half of K, with the random IV
* T = HMAC(hash of the second half of K, IV || C)

P-256 goes with AES-128 and SHA-256, P-384 with AES-192 and SHA-384. An empty plaintext is valid: IV, no C.
"""

import base64
import binascii
import secrets
from typing import NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.concatkdf import ConcatKDFHash
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

IV_SIZE = 16
UNCOMPRESSED = 4


class DecryptError(ValueError):
    """The value is malformed, changed, or encrypted to another key."""


class _Suite(NamedTuple):
    """The algorithms for a curve; sizes in bytes."""

    hash: hashes.HashAlgorithm
    key_size: int
    point_size: int

    def keys(self, shared: bytes) -> tuple[bytes, bytes]:
        """Derive the AES key and the MAC key from the shared secret Z."""
        derived = ConcatKDFHash(self.hash, 2 * self.key_size, None).derive(shared)
        digest = hashes.Hash(self.hash)
        digest.update(derived[self.key_size :])
        return derived[: self.key_size], digest.finalize()

    def tag(self, mac_key: bytes, message: bytes) -> hmac.HMAC:
        mac = hmac.HMAC(mac_key, self.hash)
        mac.update(message)
        return mac


_SUITES = {
    "secp256r1": _Suite(hashes.SHA256(), 16, 65),
    "secp384r1": _Suite(hashes.SHA384(), 24, 97),
}


def encrypt(public_key: ec.EllipticCurvePublicKey, plaintext: bytes) -> str:
    """Encrypt to a public key on P-256 or P-384 and return base64 text. Raises ValueError for another curve."""
    suite = _suite(public_key.curve)
    ephemeral = ec.generate_private_key(public_key.curve)
    aes_key, mac_key = suite.keys(ephemeral.exchange(ec.ECDH(), public_key))
    iv = secrets.token_bytes(IV_SIZE)
    sealed = iv + _counter_mode(aes_key, iv, plaintext)
    point = ephemeral.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    return base64.b64encode(point + sealed + suite.tag(mac_key, sealed).finalize()).decode("ascii")


def decrypt(private_key: ec.EllipticCurvePrivateKey, text: str) -> bytes:
    """Decrypt base64 text with a private key on P-256 or P-384, which may stay in its token.

    Raises DecryptError for a value that is malformed, changed or for another key, ValueError for another curve, and
    what the key itself raises (a token that fails).
    """
    suite = _suite(private_key.curve)
    point, sealed, tag = _split(suite, text)
    try:
        peer = ec.EllipticCurvePublicKey.from_encoded_point(private_key.curve, point)
    except ValueError as error:
        raise DecryptError("the ephemeral key is not a point of the curve") from error
    aes_key, mac_key = suite.keys(private_key.exchange(ec.ECDH(), peer))
    try:
        suite.tag(mac_key, sealed).verify(tag)
    except InvalidSignature:
        raise DecryptError("the authentication code does not match: another key, or a changed value") from None
    return _counter_mode(aes_key, sealed[:IV_SIZE], sealed[IV_SIZE:])


def is_usable(private_key: ec.EllipticCurvePrivateKey) -> bool:
    """Return whether a key decrypts what is encrypted to it. Raises what the key itself raises."""
    secret = secrets.token_bytes(16)
    try:
        return decrypt(private_key, encrypt(private_key.public_key(), secret)) == secret
    except DecryptError:
        return False


def _suite(curve: ec.EllipticCurve) -> _Suite:
    try:
        return _SUITES[curve.name]
    except KeyError:
        raise ValueError(f"no encryption is defined for keys on {curve.name}: expected P-256 or P-384") from None


def _split(suite: _Suite, text: str) -> tuple[bytes, bytes, bytes]:
    """Split into R, IV || C, and T."""
    try:
        # Like Go's decoder on the other side, skip line breaks only.
        raw = base64.b64decode(text.replace("\r", "").replace("\n", ""), validate=True)
    except (binascii.Error, ValueError) as error:
        raise DecryptError("not base64") from error
    smallest = suite.point_size + IV_SIZE + suite.hash.digest_size
    if len(raw) < smallest:
        raise DecryptError(f"{len(raw)} bytes, expected {smallest} at least")
    if raw[0] != UNCOMPRESSED:
        raise DecryptError("the ephemeral key is not an uncompressed point")
    end = len(raw) - suite.hash.digest_size
    return raw[: suite.point_size], raw[suite.point_size : end], raw[end:]


def _counter_mode(key: bytes, iv: bytes, data: bytes) -> bytes:
    """Encrypt or decrypt: in counter mode both are the same."""
    cipher = Cipher(algorithms.AES(key), modes.CTR(iv)).encryptor()
    return cipher.update(data) + cipher.finalize()
