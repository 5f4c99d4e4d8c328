"""A plain HTTPS client with a device's certificate, for questioning the simulators without the program."""

import base64
import http.client
import json
import ssl
import warnings
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7

from .est_server import PKCS10
from .gateway import JSON
from .https_server import HttpsServer
from .pki import CLIENT_AUTH, FactoryPki, general_names, key_usage, load_identity, spki_pem
from .relay import Relay

REENROL = "/.well-known/est/simplereenroll"


@dataclass(frozen=True)
class Reply:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    def certificates(self) -> list[x509.Certificate]:
        with warnings.catch_warnings():
            # Of certificates that are not sorted, which servers send and cryptography reads.
            warnings.simplefilter("ignore", UserWarning)
            return pkcs7.load_der_pkcs7_certificates(base64.b64decode(self.body))


class Client:
    """A device as far as a server sees one: a key, a certificate, and what it sends along."""

    def __init__(self, pki: FactoryPki, certificate=None, chain=(), san=None):
        self.pki = pki
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = certificate or pki.device_certificate(self.key.public_key(), san=san)
        self.chain = chain
        self.anonymous = False
        self.trust = pki.ca_bundle_pem()
        self.maximum_version = ssl.TLSVersion.TLSv1_3

    @property
    def public_key(self) -> str:
        return spki_pem(self.key.public_key())

    def renewed(self) -> "Client":
        """Make the same device with its next key and certificate."""
        other = Client(self.pki, certificate=self.certificate)
        draft = self.pki.device_draft(other.key.public_key())
        draft.subject = self.certificate.subject
        other.certificate = self.pki.issue(draft)
        return other

    def context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.maximum_version = self.maximum_version
        context.load_verify_locations(cadata=self.trust.decode())
        if not self.anonymous:
            load_identity(context, self.key, self.certificate, *self.chain)
        return context

    def connect(self, server: HttpsServer | Relay, timeout: float = 10.0) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection(server.host, server.port, timeout=timeout, context=self.context())

    def ask(self, server, method, path, body=None, headers=None, timeout: float = 10.0) -> Reply:
        connection = self.connect(server, timeout)
        try:
            return ask_over(connection, method, path, body, headers)
        finally:
            connection.close()

    def send_json(self, server, method, path, value) -> Reply:
        return self.ask(server, method, path, json.dumps(value).encode(), {"Content-Type": JSON})

    def reenrol(self, server, body: bytes | None = None, headers=None) -> Reply:
        body = base64.b64encode(self.csr()) if body is None else body
        return self.ask(server, "POST", REENROL, body, {"Content-Type": PKCS10} if headers is None else headers)

    def csr(self, *, subject=None, san=None, usages=("digital_signature",), algorithm=None, key=None) -> bytes:
        key = key or ec.generate_private_key(ec.SECP256R1())
        builder = x509.CertificateSigningRequestBuilder(subject or self.certificate.subject)
        builder = builder.add_extension(key_usage(*usages), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage([CLIENT_AUTH]), critical=True)
        if san:
            builder = builder.add_extension(general_names(san), critical=False)
        return builder.sign(key, algorithm or hashes.SHA256()).public_bytes(Encoding.DER)


def ask_over(connection, method, path, body=None, headers=None) -> Reply:
    connection.request(method, path, body=body, headers=headers or {})
    answer = connection.getresponse()
    return Reply(answer.status, answer.headers, answer.read())
