"""A Python key in an SSLContext: real handshakes with a server of Python's ssl on loopback."""

import contextlib
import socket
import ssl

import pytest
import requests
import requests.adapters
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from handler.device.keystore import IdentityNames
from hsm.errors import TlsBindingError, TokenError
from hsm.keystore import TokenKeyStore
from hsm.slots import parse_ids
from hsm.tls import present_leaf_only, signing_error, use_private_key, watch_requests
from hsm.token import Token
from tests.authority import read
from tests.softhsm import make_token, remove_token

from .handshakes import SoftwareKey, client_context, connect

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]
P256 = IdentityNames("01", "03")
P384 = IdentityNames("07", "09")


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
@pytest.mark.parametrize("names", [P256, P384], ids=["P-256", "P-384"])
def test_a_token_key_authenticates_a_connection(authority, server, device, version, names):
    context = client_context(authority, version)
    device.authenticate(context, names)
    assert connect(context, server).endswith(b"ok")
    assert signing_error(context) is None
    assert [c.public_key() for c in server.chains[0]] == [device.key(names.key).public_key()]


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
def test_one_signature_is_made_per_connection(authority, server, key, certificate, version):
    context = client_context(authority, version)
    use_private_key(context, certificate, key)
    for _ in range(3):
        connect(context, server)
    assert key.signatures == 3


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
def test_a_session_that_is_taken_up_again_needs_no_signature(authority, server, key, certificate, version):
    context = client_context(authority, version)
    use_private_key(context, certificate, key)
    session, reused = None, []
    for _ in range(3):
        with (
            socket.create_connection(("localhost", server.port), timeout=20) as connection,
            context.wrap_socket(connection, server_hostname="localhost", session=session) as secured,
        ):
            secured.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert secured.recv(65536).endswith(b"ok")  # with TLS 1.3 the session comes with what is read
            reused.append(secured.session_reused)
            session = secured.session
    assert reused == [False, True, True]
    assert key.signatures == 1


def test_requests_works_with_it(server, device, context):
    class Adapter(requests.adapters.HTTPAdapter):
        def init_poolmanager(self, *arguments, **named):
            super().init_poolmanager(*arguments, **named, ssl_context=context)

    device.authenticate(context, P256)
    with requests.Session() as session:
        session.trust_env = False
        session.mount("https://", Adapter())
        assert session.get(f"https://localhost:{server.port}/", timeout=20).text == "ok"


def test_openssl_sends_a_chain_from_the_trust_store_by_default(server, context, key, certificate):
    use_private_key(context, certificate, key)
    connect(context, server)
    assert len(server.chains[0]) > 1


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
def test_the_leaf_alone_is_presented(authority, server, key, certificate, version):
    context = client_context(authority, version)
    use_private_key(context, certificate, key)
    present_leaf_only(context)
    connect(context, server)
    assert [c.public_bytes(Encoding.DER) for c in server.chains[0]] == [certificate]


def test_the_leaf_alone_is_presented_with_a_key_from_a_file(authority, server, context, key, certificate):
    pem = authority.folder / "client.pem"
    pem.write_bytes(
        key._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        + ssl.DER_cert_to_PEM_cert(certificate).encode()
    )
    context.load_cert_chain(pem)
    present_leaf_only(context)
    connect(context, server)
    assert [c.public_bytes(Encoding.DER) for c in server.chains[0]] == [certificate]


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
def test_an_error_of_the_key_ends_the_handshake_and_is_told_once(authority, server, key, certificate, version):
    context = client_context(authority, version)
    use_private_key(context, certificate, key)
    key.failure = TokenError("the token was pulled out")
    with pytest.raises(ssl.SSLError):
        connect(context, server)
    assert signing_error(context) is key.failure
    assert signing_error(context) is None
    key.failure = None
    assert connect(context, server).endswith(b"ok")


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), SystemExit(3), MemoryError()], ids=lambda f: type(f).__name__)
def test_no_exception_of_any_kind_crosses_into_openssl(server, context, key, certificate, failure):
    use_private_key(context, certificate, key)
    key.failure = failure
    with pytest.raises(ssl.SSLError):
        connect(context, server)
    assert signing_error(context) is failure


@pytest.mark.parametrize("garbage", [b"x" * 100_000, b"x" * 80, b"short"], ids=len)
def test_a_signature_that_is_none_is_refused(server, context, key, certificate, garbage):
    use_private_key(context, certificate, key)
    key.garbage = garbage
    with contextlib.suppress(OSError):
        assert connect(context, server) == b""
    assert server.chains == []


def test_an_error_is_told_for_the_context_it_happened_in(authority, server, context, key, certificate):
    other = client_context(authority)
    for each in (context, other):
        use_private_key(each, certificate, key)
    key.failure = TokenError("gone")
    with pytest.raises(ssl.SSLError):
        connect(other, server)
    assert signing_error(context) is None
    assert signing_error(other) is key.failure


def test_a_context_without_such_a_key_has_no_error(context):
    assert signing_error(context) is None


def test_a_token_error_inside_a_handshake_names_the_operation(authority, server, context):
    fixture = make_token()
    store = TokenKeyStore(Token(fixture.module, fixture.label, fixture.pin), parse_ids("01,07", "P"), ())
    public = store.generate("01", ec.SECP256R1()).public_key()
    store.store_certificate("03", read(authority.issue("short-lived", "intermediate", public)))
    store.authenticate(context, IdentityNames("01", "03"))
    store.discard(IdentityNames("01", "03"))
    with pytest.raises(ssl.SSLError):
        connect(context, server)
    error = str(signing_error(context))
    assert "key 01" in error
    assert fixture.label in error
    store.close()
    remove_token(fixture)


def test_a_certificate_of_another_key_is_refused(context, certificate):
    with pytest.raises(TlsBindingError, match="another key"):
        use_private_key(context, certificate, SoftwareKey())


def test_a_certificate_that_is_none_is_refused(context, key):
    with pytest.raises(ValueError, match="cut off"):
        use_private_key(context, b"nonsense", key)


def test_what_is_no_context_is_refused(key, certificate):
    with pytest.raises(TlsBindingError, match=r"expected an ssl\.SSLContext, not object"):
        use_private_key(object(), certificate, key)


def test_the_context_is_as_it_was_but_for_the_key(context, key, certificate):
    before = context.options
    use_private_key(context, certificate, key)
    present_leaf_only(context)
    watch_requests(context)
    assert context.options == before


def test_a_key_can_be_replaced_in_its_context(authority, server, context, key, certificate):
    use_private_key(context, certificate, key)
    second = SoftwareKey(ec.SECP256R1())
    der = authority.issue("second", "intermediate", second.public_key()).public_bytes(Encoding.DER)
    use_private_key(context, der, second)
    connect(context, server)
    assert (key.signatures, second.signatures) == (0, 1)


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
def test_a_request_for_a_certificate_is_noticed(authority, server, key, certificate, version):
    context = client_context(authority, version)
    use_private_key(context, certificate, key)
    watch = watch_requests(context)
    connect(context, server)
    assert watch.requests == 1
    server.context.verify_mode = ssl.CERT_NONE
    connect(context, server)
    assert watch.requests == 1
