"""A CA, a server that demands a certificate, and keys and contexts for it."""

import socket
import ssl
import threading

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from hsm.keystore import TokenKeyStore
from hsm.slots import parse_ids
from hsm.token import Token
from tests.authority import read
from tests.softhsm import make_token, remove_token

from .handshakes import Authority, Server, SoftwareKey, client_context


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    authority = Authority(tmp_path_factory.mktemp("ca"))
    authority.authority("root", "root")
    authority.authority("intermediate", "root")
    return authority


@pytest.fixture
def server(authority):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    key = ec.generate_private_key(ec.SECP256R1())
    authority.issue("server", "root", key.public_key())
    pem = authority.folder / "server-key.pem"
    pem.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    context.load_cert_chain(authority.file("server"), pem)
    context.load_verify_locations(authority.file("root", "intermediate"))
    context.verify_mode = ssl.CERT_REQUIRED
    server = Server(context)
    thread = threading.Thread(target=server.serve)
    thread.start()
    yield server
    server.listener.shutdown(socket.SHUT_RDWR)
    server.listener.close()
    thread.join()


@pytest.fixture
def context(authority):
    """A client's context. Its trust file holds the client's issuer too, as those of devices do."""
    return client_context(authority)


@pytest.fixture(scope="module")
def device(authority):
    """A token with two identities, and the store over it."""
    token = make_token()
    store = TokenKeyStore(Token(token.module, token.label, token.pin), parse_ids("01,07", "P"), parse_ids("03,09", "C"))
    for key_id, certificate_id, curve in (("01", "03", ec.SECP256R1()), ("07", "09", ec.SECP384R1())):
        public = store.generate(key_id, curve).public_key()
        store.store_certificate(certificate_id, read(authority.issue(f"device {key_id}", "intermediate", public)))
    yield store
    store.close()
    remove_token(token)


@pytest.fixture
def key():
    return SoftwareKey()


@pytest.fixture
def certificate(authority, key):
    return authority.issue("software", "intermediate", key.public_key()).public_bytes(Encoding.DER)
