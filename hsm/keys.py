"""A private key that stays in its token, in the form of `cryptography`'s private keys.

CSR, ECIES and TLS take an ec.EllipticCurvePrivateKey wherever it lives. Signatures are raw CKM_ECDSA over a digest made
here: not every token has CKM_ECDSA_SHA256.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

import pkcs11
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass
from pkcs11 import exceptions as p11
from pkcs11.constants import DEFAULT
from pkcs11.mechanisms import KDF

from hsm.curves import is_pair, octets
from hsm.errors import ObjectMissingError, UnsupportedError
from hsm.objects import believed, objects_under, public_key_under, public_keys_of_certificates, the_object
from hsm.slots import ObjectId
from hsm.token import Token

if TYPE_CHECKING:
    from cryptography.utils import Buffer

_SECRET = {
    # What python-pkcs11 would add for the derived secret; tokens disagree on what they accept.
    **dict.fromkeys((Attribute.ENCRYPT, Attribute.DECRYPT, Attribute.WRAP, Attribute.UNWRAP, Attribute.SIGN), DEFAULT),
    **dict.fromkeys((Attribute.VERIFY, Attribute.DERIVE, Attribute.ID, Attribute.LABEL), DEFAULT),
    Attribute.SENSITIVE: False,
    Attribute.EXTRACTABLE: True,
}


class TokenPrivateKey(ec.EllipticCurvePrivateKey):
    """The private key under an id of a token. Its methods raise hsm.errors.TokenError if the token fails.

    It may be used from several threads. It remembers what it has shown: that it belongs to its public key, that it can
    derive, and the secrets it derived.
    """

    def __init__(self, token: Token, object_id: ObjectId, public_key: ec.EllipticCurvePublicKey) -> None:
        self._token = token
        self._id = object_id
        self._public_key = public_key
        self._der_prefix = b""
        self._secrets: dict[bytes, bytes] = {}
        self._is_pair = False

    def __repr__(self) -> str:
        return f"TokenPrivateKey({self._token!r}, {self._id})"

    def sign(self, data: "Buffer", signature_algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:
        """Sign data or, with Prehashed, a digest; return r and s in DER. Raises ValueError, TokenError.

        A signature that does not verify may come from another object that got the handle meanwhile: it is made again.
        """
        digest = _digest(bytes(data), signature_algorithm)
        signature = believed(self._token, lambda: self._sign(digest))
        try:
            self._public_key.verify(signature, data, signature_algorithm)
        except InvalidSignature:
            self._token.changed()
            return believed(self._token, lambda: self._sign(digest))
        self._is_pair = True
        return signature

    def is_pair(self) -> bool:
        """Return whether the public key is the private one's: tried with one signature."""
        return self._is_pair or is_pair(self)

    def _sign(self, digest: bytes) -> bytes:
        size = octets(self.curve)
        with self._token.session(f"sign with key {self._id}") as session:
            sign = self._allowed(session, "sign", "sign")
            with self._token.working("sign"):
                # ECDSA takes the leftmost bits of a longer digest; not every token truncates it.
                raw = bytes(sign(digest[:size], mechanism=Mechanism.ECDSA))
        if len(raw) != 2 * size:
            raise UnsupportedError(f"token {self._token.label!r} signed with {len(raw)} bytes, expected {2 * size}")
        return utils.encode_dss_signature(int.from_bytes(raw[:size]), int.from_bytes(raw[size:]))

    def _allowed(self, session: pkcs11.Session, method: str, use: str) -> Any:  # noqa: ANN401
        """Return a method of the private key. Raises UnsupportedError if it was made without that attribute."""
        private = self._private(session)
        if not hasattr(private, method):
            raise UnsupportedError(
                f"key {self._id} of token {self._token.label!r} may not be used to {use}: use another token"
            )
        return getattr(private, method)

    def exchange(self, algorithm: ec.ECDH, peer_public_key: ec.EllipticCurvePublicKey) -> bytes:
        """Derive a secret in the token (CKM_ECDH1_DERIVE, no KDF), once for each peer: the x coordinate, full length.

        Raises ValueError for a peer on another curve, UnsupportedError if the token cannot derive, TokenError.
        """
        if not isinstance(algorithm, ec.ECDH) or peer_public_key.curve.name != self.curve.name:
            raise ValueError(f"expected ECDH with a key on {self.curve.name}, not on {peer_public_key.curve.name}")
        point = peer_public_key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        if point not in self._secrets:
            self._secrets[point] = believed(self._token, lambda: self._exchange(point))
        return self._secrets[point]

    def can_derive(self) -> bool:
        """Return whether the token does ECDH with this key: it has, or says so of itself and of the key."""
        if self._secrets:
            return True
        with self._token.session("list the mechanisms") as session:
            is_allowed = hasattr(self._private(session), "derive_key")
            return is_allowed and Mechanism.ECDH1_DERIVE in session.token.slot.get_mechanisms()

    def _exchange(self, point: bytes) -> bytes:
        with self._token.session(f"agree on a secret with key {self._id}") as session:
            derive_key = self._allowed(session, "derive_key", "derive")
            with self._token.working("agree on a secret"):
                secret = self._secret(derive_key, point, self._der_prefix)
            try:
                value: bytes = secret[Attribute.VALUE]
            finally:
                secret.destroy()
            return value.rjust(octets(self.curve), b"\0")

    def _secret(self, derive_key: Callable[..., Any], point: bytes, prefix: bytes) -> Any:  # noqa: ANN401 - of pkcs11
        try:
            return derive_key(
                KeyType.GENERIC_SECRET,
                octets(self.curve) * 8,
                mechanism=Mechanism.ECDH1_DERIVE,
                mechanism_param=(KDF.NULL, None, prefix + point),
                store=False,
                template=_SECRET,
            )
        except (p11.ArgumentsBad, p11.MechanismParamInvalid, p11.PublicKeyInvalid):
            if prefix:
                raise
            # Before PKCS#11 v2.30 modules expected the point in a DER OCTET STRING, and some still do.
            prefix = bytes([4, len(point)])
            secret = self._secret(derive_key, point, prefix)
            self._der_prefix = prefix
            return secret

    def _private(self, session: pkcs11.Session) -> Any:  # noqa: ANN401 - pkcs11 makes its classes as it runs
        """Return the private key's object, as it was seen last."""
        publics = objects_under(self._token, session, self._id, ObjectClass.PUBLIC_KEY)
        if publics and public_key_under(self._token, session, self._id) != self._public_key:
            raise ObjectMissingError(
                f"key {self._id} of token {self._token.label!r} was replaced by another program: retry"
            )
        private = the_object(self._token, session, ObjectClass.PRIVATE_KEY, self._id).item
        private.key_type = KeyType.EC  # python-pkcs11 would ask the token for that, to choose a mechanism
        return private

    def public_key(self) -> ec.EllipticCurvePublicKey:
        """Return the public key."""
        return self._public_key

    @property
    def curve(self) -> ec.EllipticCurve:
        """The curve."""
        return self._public_key.curve

    @property
    def key_size(self) -> int:
        """The size of the private scalar in bits."""
        return self._public_key.key_size

    def private_numbers(self, *_form: object, **_named_form: object) -> NoReturn:
        """Raise UnsupportedError: the key cannot leave its token."""
        raise UnsupportedError(f"key {self._id} stays in token {self._token.label!r}: it cannot be read")

    private_bytes = private_numbers

    def __copy__(self) -> "TokenPrivateKey":
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> "TokenPrivateKey":
        return self


def load_private_key(token: Token, object_id: ObjectId) -> TokenPrivateKey:
    """Load the key pair under an id: exactly one private key, with its public key or a certificate that fits it.

    Raises ObjectMissingError, ObjectConflictError (several), UnsupportedError (RSA, another curve), TokenError.
    """

    def load() -> tuple[bool, list[ec.EllipticCurvePublicKey]]:
        with token.session(f"load key {object_id}") as session:
            the_object(token, session, ObjectClass.PRIVATE_KEY, object_id)
            try:
                return True, [public_key_under(token, session, object_id)]
            except ObjectMissingError:
                if others := public_keys_of_certificates(token, session):
                    return False, others
                raise

    is_sure, found = believed(token, load)
    for public_key in found:
        known = token.keys.get(object_id)
        key = known if known and known.public_key() == public_key else TokenPrivateKey(token, object_id, public_key)
        if is_sure or key.is_pair():
            token.keys[object_id] = key
            return key
    raise ObjectMissingError(
        f"there is no public key {object_id} in token {token.label!r}, nor a certificate for that key: "
        "correct the id in sota.toml, or register the device again"
    )


def _digest(data: bytes, signature_algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:
    algorithm = signature_algorithm.algorithm
    if isinstance(algorithm, utils.Prehashed):
        if len(data) != algorithm.digest_size:
            raise ValueError(f"expected a digest of {algorithm.digest_size} bytes, not {len(data)}")
        return data
    digest = hashes.Hash(algorithm)
    digest.update(data)
    return digest.finalize()
