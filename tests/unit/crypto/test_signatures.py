"""Who signed a certificate: yes, no, or not known here."""

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa

from handler.crypto.signatures import algorithm_of, is_signed_by
from hsm.certificate import Certificate
from tests.authority import Authority, read
from tests.odd_certificates import SHA1, OddAuthority

RSA = rsa.generate_private_key(65537, 2048)
KINDS = {
    "P-256": (ec.generate_private_key(ec.SECP256R1()), hashes.SHA256(), {}),
    "P-384": (ec.generate_private_key(ec.SECP384R1()), hashes.SHA384(), {}),
    "RSA": (RSA, hashes.SHA256(), {}),
    "PSS": (
        RSA,
        hashes.SHA512(),
        {"rsa_padding": padding.PSS(padding.MGF1(hashes.SHA512()), padding.PSS.DIGEST_LENGTH)},
    ),
    "Ed25519": (ed25519.Ed25519PrivateKey.generate(), None, {}),
    "Ed448": (ed448.Ed448PrivateKey.generate(), None, {}),
}
MODEL = Authority()


def issue(key, signer, digest, **how):
    """Issue a certificate for `key`, signed by `signer`."""
    return read(
        x509.CertificateBuilder()
        .subject_name(MODEL.name)
        .issuer_name(MODEL.name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(MODEL.now)
        .not_valid_after(MODEL.now)
        .sign(signer, digest, **how)
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("other", KINDS)
def test_a_signature_is_that_of_one_key_alone(kind, other):
    key, digest, how = KINDS[kind]
    issued = issue(key, key, digest, **how)
    issuer = issue(KINDS[other][0], KINDS[other][0], KINDS[other][1])
    assert is_signed_by(issued, issuer) is (key is KINDS[other][0])


def test_of_an_algorithm_that_is_not_known_nothing_is_said():
    odd = OddAuthority()
    issued = odd.issue(MODEL.key.public_key())
    strange = issued.replace(bytes.fromhex("2a8648ce3d040302"), bytes.fromhex("2a8648ce3d04037f"))
    assert is_signed_by(Certificate.read(strange), read(MODEL.certificate)) is None


def test_an_algorithm_is_named():
    odd = OddAuthority()
    reader = Certificate.read
    assert algorithm_of(reader(odd.certificate)) == "ECDSA with sha256"
    assert algorithm_of(reader(odd.issue(MODEL.key.public_key(), algorithm=SHA1))) == "ECDSA with sha1"
