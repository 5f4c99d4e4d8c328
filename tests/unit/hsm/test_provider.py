"""The provider in OpenSSL: what its keys do in connections, and that nobody else meets them."""

import gc
import hashlib
import os
import socket
import ssl
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from handler.device.keystore import IdentityNames
from hsm import tls
from hsm.certificate import Certificate
from hsm.keystore import TokenKeyStore
from hsm.slots import parse_ids
from hsm.tls import signing_error, use_private_key
from hsm.token import Token
from tests.softhsm import make_token, remove_token

from .handshakes import SoftwareKey, client_context, connect

IDENTITY = IdentityNames("01", "03")


def asked_later(server, context):
    """Have the server ask for a certificate after the handshake (RFC 8446 §4.6.2); gives what it saw, and then saw."""
    server.context.verify_mode = ssl.CERT_OPTIONAL
    server.context.post_handshake_auth = context.post_handshake_auth = True
    theirs, ours = socket.socketpair()

    def serve():
        with theirs, server.context.wrap_socket(theirs, server_side=True) as secured:
            secured.recv(100)
            seen = [secured.getpeercert(binary_form=True)]
            secured.verify_client_post_handshake()
            secured.sendall(b"who?")
            secured.recv(100)
            secured.sendall(b"you!")
            return [*seen, secured.getpeercert(binary_form=True)]

    with ThreadPoolExecutor(1) as pool:
        seen = pool.submit(serve)
        with ours, context.wrap_socket(ours, server_hostname="localhost") as secured:
            for _ in range(2):
                secured.sendall(b"me")
                secured.recv(100)
        return seen.result()


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()], ids=lambda curve: curve.name)
def test_a_certificate_that_is_asked_for_after_the_handshake_is_presented(authority, server, context, curve):
    key = SoftwareKey(curve)
    certificate = authority.issue("later", "intermediate", key.public_key()).public_bytes(Encoding.DER)
    use_private_key(context, certificate, key)
    assert asked_later(server, context) == [None, certificate]
    assert (key.signatures, signing_error(context)) == (1, None)


def test_an_error_of_the_key_after_the_handshake_is_told(server, context, key, certificate):
    use_private_key(context, certificate, key)
    key.failure = OSError("gone")
    with pytest.raises(ssl.SSLError):
        asked_later(server, context)
    assert signing_error(context) is key.failure


def test_two_tokens_sign_side_by_side(authority, server):
    fixtures = [make_token(), make_token()]
    stores = [TokenKeyStore(Token(f.module, f.label, f.pin), parse_ids("01,07", "P"), ()) for f in fixtures]
    for number, store in enumerate(stores):
        public = store.generate("01", ec.SECP256R1()).public_key()
        issued = authority.issue(f"token {number}", "intermediate", public)
        store.store_certificate("03", Certificate.read(issued.public_bytes(Encoding.DER)))

    def work(number):
        context = client_context(authority)
        stores[number % 2].authenticate(context, IDENTITY)
        assert connect(context, server).endswith(b"ok")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(20)))
    seen = [chain[0].subject.rfc4514_string() for chain in server.chains]
    assert sorted(seen) == ["CN=token 0"] * 10 + ["CN=token 1"] * 10
    for store, fixture in zip(stores, fixtures, strict=True):
        store.close()
        remove_token(fixture)


def test_nothing_of_a_handshake_is_left(authority, server, key, certificate):
    openssl = tls._openssl()
    before = set(openssl.provider.installed)
    context = client_context(authority)
    use_private_key(context, certificate, key)
    for _ in range(3):
        connect(context, server)
    key.failure = OSError("gone")
    with pytest.raises(ssl.SSLError):
        connect(context, server)
    assert signing_error(context) is key.failure  # its traceback leads to what called OpenSSL
    assert openssl.provider._signing == openssl.provider._offered == {}
    del context, key.failure
    gc.collect()
    assert set(openssl.provider.installed) <= before


def test_a_hash_that_no_token_signs_with_is_named(authority, server, key, certificate):
    context = client_context(authority, ssl.TLSVersion.TLSv1_2)
    use_private_key(context, certificate, key)
    openssl, set_client_sigalgs_list = tls._openssl(), 102
    assert openssl.c.SSL_CTX_ctrl(openssl.context(server.context), set_client_sigalgs_list, 0, b"ECDSA+SHA224") == 1
    with pytest.raises(ssl.SSLError):
        connect(context, server)
    assert "expected SHA-256, SHA-384 or SHA-512 to sign with, not b'SHA" in str(signing_error(context))
    assert key.signatures == 0


def test_searches_of_others_never_find_the_provider(context, key, certificate):
    """Their results would be kept, and in OpenSSL a result for one provider can be taken for everybody's."""
    use_private_key(context, certificate, key)
    libcrypto = tls._openssl().c
    assert libcrypto.OSSL_PROVIDER_available(None, b"renew-client-cert") == 0
    for fetch in (libcrypto.EVP_KEYMGMT_fetch, libcrypto.EVP_SIGNATURE_fetch):
        for name in (b"EC", b"ECDSA"):
            assert fetch(None, name, b"provider=renew-client-cert") == 0


def test_a_key_in_a_file_does_not_meet_the_provider(authority, server, context, key, certificate):
    use_private_key(context, certificate, key)
    before = dict(tls._openssl().provider.installed)
    pem = authority.folder / "beside.pem"
    pem.write_bytes(
        key._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        + ssl.DER_cert_to_PEM_cert(certificate).encode()
    )
    beside = client_context(authority)
    beside.load_cert_chain(pem)
    assert connect(beside, server).endswith(b"ok")
    assert tls._openssl().provider.installed == before
    assert key.signatures == 0


def test_a_key_in_a_file_takes_the_place_of_one_in_a_token(authority, server, context, key, certificate):
    use_private_key(context, certificate, key)
    other = ec.generate_private_key(ec.SECP256R1())
    pem = authority.folder / "instead.pem"
    pem.write_bytes(
        other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        + authority.issue("instead", "intermediate", other.public_key()).public_bytes(Encoding.PEM)
    )
    context.load_cert_chain(pem)
    assert connect(context, server).endswith(b"ok")
    assert server.chains[0][0].public_key() == other.public_key()
    assert key.signatures == 0


@pytest.mark.timeout(60)
def test_threads_that_hold_the_interpreter_in_openssl_do_not_stop_handshakes(authority, server, key, certificate):
    """hashlib looks for algorithms in OpenSSL with the GIL held; what is unknown is asked of every provider."""
    done = []

    def look():
        while not done:
            with pytest.raises(ValueError, match="unsupported"):
                hashlib.new("nonesuch")

    def shake_hands(_):
        context = client_context(authority)
        use_private_key(context, certificate, key)
        return [connect(context, server)[-2:] for _ in range(5)]

    with ThreadPoolExecutor(8) as pool:
        looking = [pool.submit(look) for _ in range(4)]
        try:
            assert list(pool.map(shake_hands, range(8))) == [[b"ok"] * 5] * 8
        finally:
            done.append(True)
        for each in looking:
            each.result()


PROGRAM = """
import ctypes, ssl, sys
from pathlib import Path
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from hsm import tls
folder = Path(sys.argv[1])
key = load_pem_private_key((folder / "alone-key.pem").read_bytes(), None)
context = ssl.create_default_context(cafile=folder / "root-intermediate.pem")
"""


@pytest.fixture
def run(authority, key, certificate):
    """Run a separate program, with a key and a context at hand."""
    authority.file("root", "intermediate")
    (authority.folder / "alone.der").write_bytes(certificate)
    pem = key._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (authority.folder / "alone-key.pem").write_bytes(pem)

    def run(program, *arguments, **environment):
        return subprocess.run(
            [sys.executable, "-c", PROGRAM + program, str(authority.folder), *arguments],
            capture_output=True,
            check=False,
            text=True,
            env=os.environ | {"PYTHONFAULTHANDLER": "1"} | environment,
        )

    return run


def test_openssl_may_ask_the_provider_after_the_interpreter_ended(run):
    """The C library calls EVP_PKEY_CTX_new_id(979, 0) when Python is gone: GOST, which no provider here has."""
    done = run(
        "tls.use_private_key(context, (folder / 'alone.der').read_bytes(), key)\n"
        "late = ctypes.cast(tls._openssl().c.EVP_PKEY_CTX_new_id, ctypes.c_void_p)\n"
        "register = ctypes.CDLL(None).__cxa_atexit\n"
        "register.argtypes = [ctypes.c_void_p] * 3\n"
        "assert register(late, 979, None) == 0\n"
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("properties", ["?provider=legacy", "provider=default"])
def test_default_properties_do_not_rule_the_key_out(run, authority, properties):
    configuration = authority.folder / "openssl.cnf"
    configuration.write_text(
        f"openssl_conf = all\n[all]\nalg_section = evp\n[evp]\ndefault_properties = {properties}\n"
    )
    done = run(
        "tls.use_private_key(context, (folder / 'alone.der').read_bytes(), key)\n",
        OPENSSL_CONF=str(configuration),
    )
    assert (done.returncode, done.stderr) == (0, "")
