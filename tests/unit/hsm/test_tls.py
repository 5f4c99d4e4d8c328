"""A Python key in an SSLContext: real handshakes with a server of Python's ssl on loopback."""

import contextlib
import datetime as dt
import gc
import os
import resource
import socket
import ssl
import subprocess
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import requests
import requests.adapters
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import NameOID

from handler.device.keystore import IdentityNames
from hsm import tls
from hsm.errors import TokenError
from hsm.keystore import TokenKeyStore
from hsm.slots import parse_ids
from hsm.tls import TlsBindingError, on_certificate_request, present_leaf_only, signing_error, use_private_key
from hsm.token import Token
from tests.softhsm import make_token, remove_token

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


def _usage(*, ca):
    usages = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "crl_sign"), False
    )
    return x509.KeyUsage(digital_signature=not ca, key_cert_sign=ca, encipher_only=False, decipher_only=False, **usages)


@dataclass
class Authority:
    """A CA, and an intermediate CA that issues the clients' certificates."""

    folder: Path
    keys: dict = field(default_factory=dict)
    certificates: dict = field(default_factory=dict)

    def issue(self, name, issuer, public_key, *, ca=False):
        names = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)]) for text in (name, issuer)]
        now = dt.datetime.now(dt.UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(names[0])
            .issuer_name(names[1])
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(_usage(ca=ca), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.keys[issuer].public_key()), critical=False
            )
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
            .sign(self.keys[issuer], hashes.SHA256())
        )
        self.certificates[name] = certificate
        return certificate

    def authority(self, name, issuer):
        self.keys[name] = ec.generate_private_key(ec.SECP256R1())
        self.issue(name, issuer, self.keys[name].public_key(), ca=True)

    def file(self, *names):
        path = self.folder / f"{'-'.join(names)}.pem"
        written = self.folder / f"{threading.get_ident()}.new"
        written.write_bytes(b"".join(self.certificates[name].public_bytes(Encoding.PEM) for name in names))
        return written.replace(path)


@dataclass
class Server:
    """An HTTPS server that demands a client certificate, and notes the chains that clients sent."""

    context: ssl.SSLContext
    listener: socket.socket = field(default_factory=lambda: socket.create_server(("localhost", 0)))
    chains: list = field(default_factory=list)

    def serve(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=[connection], daemon=True).start()

    def _answer(self, connection):
        with (
            contextlib.suppress(OSError),
            connection,
            self.context.wrap_socket(connection, server_side=True) as secured,
        ):
            chain = secured._sslobj.get_unverified_chain() or []
            self.chains.append(
                [x509.load_der_x509_certificate(ssl.PEM_cert_to_DER_cert(c.public_bytes())) for c in chain]
            )
            while b"\r\n\r\n" in secured.recv(65536):
                secured.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    @property
    def port(self):
        return self.listener.getsockname()[1]


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


def client_context(authority, version=None):
    context = ssl.create_default_context(cafile=str(authority.file("root", "intermediate")))
    if version is not None:
        context.minimum_version = context.maximum_version = version
    return context


@pytest.fixture(scope="module")
def device(authority):
    """A token with two identities, and the store over it."""
    token = make_token()
    store = TokenKeyStore(Token(token.module, token.label, token.pin), parse_ids("01,07", "P"), parse_ids("03,09", "C"))
    for key_id, certificate_id, curve in (("01", "03", ec.SECP256R1()), ("07", "09", ec.SECP384R1())):
        public = store.generate(key_id, curve).public_key()
        store.store_certificate(certificate_id, authority.issue(f"device {key_id}", "intermediate", public))
    yield store
    store.close()
    remove_token(token)


P256 = IdentityNames("01", "03")
P384 = IdentityNames("07", "09")


def connect(context, server):
    """Make one request, and give what came back: with TLS 1.3 the server refuses a client after the handshake."""
    with (
        socket.create_connection(("localhost", server.port), timeout=20) as connection,
        context.wrap_socket(connection, server_hostname="localhost") as secured,
    ):
        secured.sendall(b"GET / HTTP/1.1\r\n\r\n")
        return secured.recv(65536)


class SoftwareKey(ec.EllipticCurvePrivateKey):
    """A key outside of OpenSSL's reach, which counts, and fails when told."""

    def __init__(self, curve=None):
        self._key = ec.generate_private_key(curve or ec.SECP256R1())
        self.signatures = 0
        self.failure = None
        self.garbage = None

    def sign(self, data, signature_algorithm):
        self.signatures += 1
        if self.failure is not None:
            raise self.failure
        return self.garbage or self._key.sign(data, signature_algorithm)

    def public_key(self):
        return self._key.public_key()

    @property
    def curve(self):
        return self._key.curve

    @property
    def key_size(self):
        return self._key.key_size

    def exchange(self, algorithm, peer_public_key):
        raise NotImplementedError

    def private_numbers(self):
        raise NotImplementedError

    def private_bytes(self, encoding, format, encryption_algorithm):  # noqa: A002
        raise NotImplementedError

    def __copy__(self):
        return self

    def __deepcopy__(self, memo):
        return self


@pytest.fixture
def key():
    return SoftwareKey()


@pytest.fixture
def certificate(authority, key):
    return authority.issue("software", "intermediate", key.public_key()).public_bytes(Encoding.DER)


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
    store.store_certificate("03", authority.issue("short-lived", "intermediate", public))
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
    with pytest.raises(ValueError, match=r"(?i)parse"):
        use_private_key(context, b"nonsense", key)


def test_what_is_no_context_is_refused(key, certificate):
    with pytest.raises(TlsBindingError, match=r"expected an ssl\.SSLContext, not object"):
        use_private_key(object(), certificate, key)


def test_the_context_is_as_it_was_but_for_the_key(context, key, certificate):
    before = context.options
    use_private_key(context, certificate, key)
    present_leaf_only(context)
    on_certificate_request(context, list)
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
    seen = []
    on_certificate_request(context, lambda: seen.append(1))
    connect(context, server)
    assert seen == [1]
    server.context.verify_mode = ssl.CERT_NONE
    connect(context, server)
    assert seen == [1]


def test_a_callback_that_fails_is_logged_and_the_handshake_goes_on(server, context, key, certificate, caplog):
    use_private_key(context, certificate, key)

    def fail():
        raise RuntimeError("not noted")

    on_certificate_request(context, fail)
    assert connect(context, server).endswith(b"ok")
    assert "not noted" in caplog.text


def test_eight_threads_with_contexts_of_their_own_shake_hands_at_once(authority, server, device):
    def work(_):
        context = client_context(authority)
        device.authenticate(context, P256)
        return [connect(context, server)[-2:] for _ in range(5)]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(8))) == [[b"ok"] * 5] * 8


def test_eight_threads_share_a_context(server, device, context):
    device.authenticate(context, P256)
    with ThreadPoolExecutor(8) as pool:
        assert {answer[-2:] for answer in pool.map(lambda _: connect(context, server), range(40))} == {b"ok"}


def held(key):
    """Count the places in which the binding holds a key."""
    return sum(entry.key is key for entry in tls._openssl().installed.values())


def test_the_key_goes_with_its_context(authority, key, certificate):
    class Callback:
        def __call__(self):
            raise NotImplementedError

    callback = Callback()
    context = client_context(authority)
    use_private_key(context, certificate, key)
    on_certificate_request(context, callback)
    assert held(key) == 1
    gone = weakref.ref(context), weakref.ref(callback)
    del context, callback
    gc.collect()
    assert [reference() for reference in gone] == [None, None]
    assert held(key) == 0


def test_a_connection_outlives_its_context(authority, server, key, certificate):
    """Renegotiation aside, nothing of the key is used any more; but it must not be freed under OpenSSL."""
    context = client_context(authority)
    use_private_key(context, certificate, key)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    half_way = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    del context
    gc.collect()
    with socket.create_connection(("localhost", server.port), timeout=20) as connection:
        while True:
            try:
                half_way.do_handshake()
                break
            except ssl.SSLWantReadError:
                connection.sendall(outgoing.read())
                incoming.write(connection.recv(65536))
    assert key.signatures == 1
    del half_way
    gc.collect()


def test_a_thousand_contexts_leave_nothing_behind(authority, key, certificate):
    openssl = tls._openssl()
    pem = authority.file("root")

    def fill(count):
        for _ in range(count):
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.load_verify_locations(pem)
            use_private_key(context, certificate, key)
            present_leaf_only(context)
            on_certificate_request(context, list)
        gc.collect()
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    before = fill(300)
    requested = len(openssl.requested)
    assert fill(1000) - before < 512 * 1024
    assert held(key) == 0
    assert len(openssl.requested) <= requested


def test_an_interpreter_ends_cleanly_with_keys_in_contexts(authority, key, certificate):
    """Contexts in globals, in cycles and in a thread that is still running are torn down in any order."""
    (authority.folder / "leaf.der").write_bytes(certificate)
    pem = key._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (authority.folder / "leaf-key.pem").write_bytes(pem)
    program = (
        "import ssl, sys, threading, hsm.tls\n"
        "from pathlib import Path\n"
        "from cryptography.hazmat.primitives.serialization import load_pem_private_key\n"
        "folder = Path(sys.argv[1])\n"
        "key = load_pem_private_key((folder / 'leaf-key.pem').read_bytes(), None)\n"
        "def make():\n"
        "    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)\n"
        "    hsm.tls.use_private_key(context, (folder / 'leaf.der').read_bytes(), key)\n"
        "    hsm.tls.on_certificate_request(context, list)\n"
        "    return context\n"
        "kept = make()\n"
        "sys.kept = make()\n"
        "cycle = [make()]; cycle.append(cycle); del cycle\n"
        "ssl.kept = make().wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname='localhost')\n"
        "def forever():\n"
        "    while True: make()\n"
        "threading.Thread(target=forever, daemon=True).start()\n"
    )
    for _ in range(3):
        run = subprocess.run(
            [sys.executable, "-c", program, str(authority.folder)],
            capture_output=True,
            check=False,
            text=True,
            env=os.environ | {"PYTHONFAULTHANDLER": "1"},
        )
        assert (run.returncode, run.stderr) == (0, "")
    assert load_pem_private_key(pem, None).public_key() == key.public_key()
