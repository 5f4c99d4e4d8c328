"""A key in a token, used through cryptography's interface."""

import copy
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.x509.oid import NameOID
from pkcs11 import Attribute, KeyType, ObjectClass

from hsm.errors import ObjectConflictError, ObjectMissingError, TokenError, UnsupportedError
from hsm.keys import TokenPrivateKey, load_private_key
from hsm.slots import ObjectId
from hsm.token import Token
from tests.softhsm import add_key_pair, make_token, objects, opened, remove_objects, remove_token

CURVES = {1: ec.SECP256R1(), 2: ec.SECP384R1()}


@pytest.fixture(scope="module")
def fixture():
    token = make_token()
    for object_id, curve in CURVES.items():
        add_key_pair(token, object_id, curve=curve)
    yield token
    remove_token(token)


@pytest.fixture(scope="module")
def token(fixture):
    opened = Token(fixture.module, fixture.label, fixture.pin)
    yield opened
    opened.close()


@pytest.fixture(params=CURVES, ids=[curve.name for curve in CURVES.values()])
def key(token, request):
    return load_private_key(token, ObjectId(f"0{request.param}"))


@pytest.fixture
def own():
    """A token that the test may change."""
    token = make_token()
    client = Token(token.module, token.label, token.pin)
    yield token, client
    client.close()
    remove_token(token)


@pytest.mark.parametrize("algorithm", [hashes.SHA256(), hashes.SHA384(), hashes.SHA512()], ids=lambda a: a.name)
def test_a_signature_of_any_hash_verifies(key, algorithm):
    key.public_key().verify(key.sign(b"data", ec.ECDSA(algorithm)), b"data", ec.ECDSA(algorithm))


def test_a_signature_of_a_digest_verifies_over_the_data(key):
    digest = hashes.Hash(hashes.SHA256())
    digest.update(b"data")
    signature = key.sign(digest.finalize(), ec.ECDSA(utils.Prehashed(hashes.SHA256())))
    key.public_key().verify(signature, b"data", ec.ECDSA(hashes.SHA256()))


def test_a_digest_of_the_wrong_length_is_refused(key):
    with pytest.raises(ValueError, match="32 bytes"):
        key.sign(b"short", ec.ECDSA(utils.Prehashed(hashes.SHA256())))


def test_a_csr_is_signed_in_the_token(key):
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "device")])
    csr = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    assert csr.is_signature_valid
    assert csr.public_key() == key.public_key()


def test_key_agreement_equals_that_of_software(key):
    """The x coordinate in full length, also where it starts with a zero byte (1 of 256 does)."""
    zeros = 0
    for _ in range(2000):
        peer = ec.generate_private_key(key.curve)
        secret = key.exchange(ec.ECDH(), peer.public_key())
        assert secret == peer.exchange(ec.ECDH(), key.public_key())
        zeros += secret[0] == 0
        if zeros:
            break
    assert zeros


def test_key_agreement_leaves_nothing_in_the_token(fixture, token, key):
    before = objects(fixture)
    with token.session() as session:
        key.exchange(ec.ECDH(), ec.generate_private_key(key.curve).public_key())
        assert not list(session.get_objects({Attribute.CLASS: ObjectClass.SECRET_KEY}))
    assert objects(fixture) == before


def test_key_agreement_with_another_curve_is_refused(token):
    key = load_private_key(token, ObjectId("01"))
    with pytest.raises(ValueError, match="secp256r1, not on secp384r1"):
        key.exchange(ec.ECDH(), ec.generate_private_key(ec.SECP384R1()).public_key())


def test_the_key_cannot_be_read(key):
    with pytest.raises(UnsupportedError, match="stays in token"):
        key.private_numbers()
    with pytest.raises(UnsupportedError, match="stays in token"):
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def test_the_key_looks_like_any_other(key):
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert key.key_size == key.curve.key_size == key.public_key().key_size
    assert copy.copy(key) is copy.deepcopy(key) is key


def test_eight_threads_sign_and_agree_at_once(token):
    key = load_private_key(token, ObjectId("01"))
    peer = ec.generate_private_key(ec.SECP256R1())
    expected = peer.exchange(ec.ECDH(), key.public_key())
    start = threading.Barrier(8)

    def work(number):
        start.wait()
        for _ in range(50):
            key.public_key().verify(key.sign(b"%d" % number, _SHA256), b"%d" % number, _SHA256)
            assert key.exchange(ec.ECDH(), peer.public_key()) == expected
        return number

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(8))) == list(range(8))


_SHA256 = ec.ECDSA(hashes.SHA256())


def test_the_object_is_looked_up_once_per_session(token):
    key = load_private_key(token, ObjectId("01"))
    key.sign(b"data", _SHA256)
    seen = token.seen
    key.sign(b"data", _SHA256)
    assert token.seen is seen is not None


def test_a_key_works_after_the_session_was_lost(token):
    key = load_private_key(token, ObjectId("01"))
    key.sign(b"data", _SHA256)
    token.reinitialize()
    key.public_key().verify(key.sign(b"data", _SHA256), b"data", _SHA256)


def test_a_key_that_was_replaced_does_not_sign_with_the_new_one(own):
    fixture, client = own
    add_key_pair(fixture, 7)
    key = load_private_key(client, ObjectId("07"))
    key.sign(b"data", _SHA256)
    remove_objects(fixture, 7, ObjectClass.PRIVATE_KEY)
    remove_objects(fixture, 7, ObjectClass.PUBLIC_KEY)
    add_key_pair(fixture, 7)
    client.changed()
    with pytest.raises(ObjectMissingError, match="replaced by another program"):
        key.sign(b"data", _SHA256)


def test_a_key_destroyed_by_somebody_else_is_a_token_error(own):
    fixture, client = own
    add_key_pair(fixture, 7)
    key = load_private_key(client, ObjectId("07"))
    key.sign(b"data", _SHA256)
    remove_objects(fixture, 7, ObjectClass.PRIVATE_KEY)
    with pytest.raises(TokenError):
        key.sign(b"data", _SHA256)
    with pytest.raises(ObjectMissingError, match="no private key 07"):
        key.sign(b"data", _SHA256)


def test_a_missing_key_is_named(own):
    _, client = own
    with pytest.raises(ObjectMissingError, match="no private key 01"):
        load_private_key(client, ObjectId("01"))


def test_two_keys_under_one_id_are_refused_with_both_labels(own):
    fixture, client = own
    add_key_pair(fixture, 1, "tls")
    add_key_pair(fixture, 1, "from the factory")
    with pytest.raises(ObjectConflictError, match=r"'tls' and 'from the factory'|'from the factory' and 'tls'"):
        load_private_key(client, ObjectId("01"))


def test_an_rsa_key_is_refused_with_the_reason(own):
    fixture, client = own
    with opened(fixture) as session:
        session.generate_keypair(KeyType.RSA, 1024, id=b"\x01", label="tls", store=True)
    with pytest.raises(UnsupportedError, match=r"key 01 of .* is of type RSA: expected EC, P-256 or P-384"):
        load_private_key(client, ObjectId("01"))


def test_another_curve_is_refused_with_the_reason(own):
    fixture, client = own
    p521 = bytes.fromhex("06052b81040023")
    with opened(fixture) as session:
        session.generate_keypair(
            KeyType.EC, id=b"\x01", label="tls", store=True, public_template={Attribute.EC_PARAMS: p521}
        )
    with pytest.raises(UnsupportedError, match="on another curve"):
        load_private_key(client, ObjectId("01"))


def test_a_key_that_may_not_derive_says_so(own):
    fixture, client = own
    with opened(fixture) as session:
        session.generate_keypair(
            KeyType.EC,
            id=b"\x01",
            label="tls",
            store=True,
            public_template={Attribute.EC_PARAMS: bytes.fromhex("06082a8648ce3d030107")},
            private_template={Attribute.DERIVE: False},
        )
    key = load_private_key(client, ObjectId("01"))
    assert isinstance(key, TokenPrivateKey)
    with pytest.raises(UnsupportedError, match="may not be used to derive"):
        key.exchange(ec.ECDH(), ec.generate_private_key(ec.SECP256R1()).public_key())
    key.sign(b"data", _SHA256)
