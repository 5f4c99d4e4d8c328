"""A CA, a server that notes the chains it is sent, and a key outside of OpenSSL's reach."""

import contextlib
import datetime as dt
import socket
import ssl
import threading
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID


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


def client_context(authority, version=None):
    context = ssl.create_default_context(cafile=str(authority.file("root", "intermediate")))
    if version is not None:
        context.minimum_version = context.maximum_version = version
    return context


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

    def __init__(self, curve=None, *, key=None, failure=None):
        self._key = key or ec.generate_private_key(curve or ec.SECP256R1())
        self.signatures = 0
        self.failure = failure
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
