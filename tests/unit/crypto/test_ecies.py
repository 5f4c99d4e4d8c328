"""ECIES: the reference library's vectors, and our own values read by an independent implementation."""

import base64
import hashlib
import hmac
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st

from handler.crypto.ecies import DecryptError, decrypt, encrypt

VECTORS = json.loads((Path(__file__).parents[2] / "data" / "ecies.json").read_text())["vectors"]
CURVES = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1()}
KEYS = {name: ec.generate_private_key(curve) for name, curve in CURVES.items()}
PROPERTY = settings(max_examples=60, deadline=None, database=None)
curve_names = pytest.mark.parametrize("curve", CURVES)


def as_the_reference_reads_it(private_key, text):
    """Decrypt by PROTOCOL.md 4 with hashlib, hmac and nothing of handler/ecies.py."""
    size, digest, half = (65, "sha256", 16) if private_key.curve.name == "secp256r1" else (97, "sha384", 24)
    raw = base64.b64decode(text, validate=True)
    point, iv, rest = raw[:size], raw[size : size + 16], raw[size + 16 :]
    mac_size = hashlib.new(digest).digest_size
    ciphertext, tag = rest[:-mac_size], rest[-mac_size:]
    peer = ec.EllipticCurvePublicKey.from_encoded_point(private_key.curve, point)
    shared = private_key.exchange(ec.ECDH(), peer)
    derived = hashlib.new(digest, b"\0\0\0\1" + shared).digest()
    mac_key = hashlib.new(digest, derived[half : 2 * half]).digest()
    assert hmac.digest(mac_key, iv + ciphertext, digest) == tag
    cipher = Cipher(algorithms.AES(derived[:half]), modes.CTR(iv)).decryptor()
    return cipher.update(ciphertext) + cipher.finalize()


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_value_of_the_reference_is_decrypted(vector):
    key = ec.derive_private_key(int(vector["private_value_hex"], 16), CURVES[vector["curve"]])
    text = base64.b64encode(bytes.fromhex(vector["ciphertext_hex"])).decode()
    assert decrypt(key, text) == bytes.fromhex(vector["plaintext_hex"])


@pytest.mark.parametrize("vector", VECTORS[::6], ids=lambda vector: vector["name"])
def test_independent_reading_agrees_with_the_reference(vector):
    key = ec.derive_private_key(int(vector["private_value_hex"], 16), CURVES[vector["curve"]])
    text = base64.b64encode(bytes.fromhex(vector["ciphertext_hex"])).decode()
    assert as_the_reference_reads_it(key, text) == bytes.fromhex(vector["plaintext_hex"])


@PROPERTY
@given(plaintext=st.binary(max_size=300), curve=st.sampled_from(sorted(CURVES)))
def test_any_value_is_read_by_the_reference_scheme_and_by_us(plaintext, curve):
    text = encrypt(KEYS[curve].public_key(), plaintext)
    assert as_the_reference_reads_it(KEYS[curve], text) == plaintext
    assert decrypt(KEYS[curve], text) == plaintext


@curve_names
def test_empty_value_works(curve):
    text = encrypt(KEYS[curve].public_key(), b"")
    assert decrypt(KEYS[curve], text) == b""


def test_no_two_values_are_alike():
    assert len({encrypt(KEYS["P-256"].public_key(), b"same") for _ in range(5)}) == 5


@curve_names
def test_other_key_cannot_decrypt(curve):
    text = encrypt(KEYS[curve].public_key(), b"secret")
    with pytest.raises(DecryptError, match="another key"):
        decrypt(ec.generate_private_key(CURVES[curve]), text)


def test_key_on_another_curve_cannot_decrypt():
    text = encrypt(KEYS["P-256"].public_key(), b"x" * 100)
    with pytest.raises(DecryptError):
        decrypt(KEYS["P-384"], text)


@PROPERTY
@given(position=st.integers(0, 127), flip=st.integers(1, 255))
def test_any_changed_byte_is_noticed(position, flip):
    raw = bytearray(base64.b64decode(encrypt(KEYS["P-256"].public_key(), b"fifteen letters")))
    raw[position] ^= flip
    with pytest.raises(DecryptError):
        decrypt(KEYS["P-256"], base64.b64encode(raw).decode())


@PROPERTY
@given(length=st.integers(0, 127))
def test_any_cut_value_is_noticed(length):
    raw = base64.b64decode(encrypt(KEYS["P-256"].public_key(), b"fifteen letters"))
    with pytest.raises(DecryptError):
        decrypt(KEYS["P-256"], base64.b64encode(raw[:length]).decode())


@PROPERTY
@given(st.text(max_size=200))
def test_any_other_text_is_no_value(text):
    with pytest.raises(DecryptError):
        decrypt(KEYS["P-256"], text)


@pytest.mark.parametrize("first", [0, 2, 3])
def test_compressed_point_is_refused(first):
    raw = bytearray(base64.b64decode(encrypt(KEYS["P-256"].public_key(), b"x" * 50)))
    raw[0] = first
    with pytest.raises(DecryptError, match="uncompressed"):
        decrypt(KEYS["P-256"], base64.b64encode(raw).decode())


def test_line_breaks_in_base64_are_skipped_as_go_does():
    text = encrypt(KEYS["P-256"].public_key(), b"x")
    assert decrypt(KEYS["P-256"], f"{text[:64]}\r\n{text[64:]}\n") == b"x"


def test_curve_without_a_scheme_is_an_error():
    key = ec.generate_private_key(ec.SECP521R1())
    with pytest.raises(ValueError, match="expected P-256 or P-384"):
        encrypt(key.public_key(), b"")
    with pytest.raises(ValueError, match="expected P-256 or P-384") as caught:
        decrypt(key, "")
    assert not isinstance(caught.value, DecryptError)


class FailingToken(ec.EllipticCurvePrivateKey):
    """A key whose token has been removed."""

    curve = ec.SECP256R1()
    key_size = 256

    def exchange(self, algorithm, peer_public_key):
        raise ValueError("the token is gone")

    def public_key(self):
        return KEYS["P-256"].public_key()

    def sign(self, data, signature_algorithm):
        raise AssertionError

    def private_numbers(self):
        raise AssertionError

    def private_bytes(self, encoding, format, encryption_algorithm):  # noqa: A002 - the name in cryptography
        raise AssertionError

    def __copy__(self):
        return self

    def __deepcopy__(self, memo):
        return self


def test_failure_of_the_token_is_no_decrypt_error():
    with pytest.raises(ValueError, match="the token is gone") as caught:
        decrypt(FailingToken(), encrypt(KEYS["P-256"].public_key(), b"x"))
    assert not isinstance(caught.value, DecryptError)
