"""What is asked of a token in a process apart: functions of, and giving, what can be pickled."""

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hsm.keystore import TokenKeyStore
from hsm.token import Token
from tests import softhsm
from tests.softhsm import TokenFixture


def _spki(public_key) -> bytes:
    return public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def add_key_pair(token: TokenFixture, object_id: int, label: str, curve: type[ec.EllipticCurve]) -> bytes:
    return _spki(softhsm.add_key_pair(token, object_id, label, curve()))


def write(token: TokenFixture, object_id: int, label: str) -> str:
    public_key = softhsm.add_key_pair(token, object_id, label)
    return public_key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint).hex()


def add_rsa_key_pair(token: TokenFixture, object_id: int) -> bytes:
    return _spki(softhsm.add_rsa_key_pair(token, object_id))


def add_certificate(token: TokenFixture, object_id: int, certificate: bytes, label: str) -> None:
    softhsm.add_certificate(token, object_id, x509.load_der_x509_certificate(certificate), label)


def public_key(token: TokenFixture, object_id: str) -> bytes:
    store = TokenKeyStore(Token(token.module, token.label, token.pin), (), ())
    key = store.find_key(object_id)
    store.close()
    if key is None:
        raise LookupError(f"no whole key pair {object_id}")
    return _spki(key.public_key())
