"""An EST server that is as strict as the reference (foundriesio/estserver), in its words and statuses.

What simplereenroll asks for, in the reference's order:

| what | else |
| --- | --- |
| one client certificate, no chain | 401 |
| content type `application/pkcs10`, without parameters | 400 |
| a body of 4096 bytes at most | 413 |
| base64 (line breaks are fine), a CSR, a good signature | 400 |
| Subject, then subjectAltName, byte for byte those of the client certificate | 400 |
| signed with ECDSA and SHA-256, as the CA's certificate is | 400 |
| key usage and extended key usage exactly digitalSignature and clientAuth | 400 |

The answer is 201 with the leaf alone; `GET /cacerts` lists the root alone; `GET /csrattrs` is 404. `EstState` says what
to do otherwise.
"""

import base64
import binascii
import re
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from hsm import der
from hsm.certificate import Certificate

from .certs_only import certs_only
from .https_server import Answer, HttpsServer, RecordedRequest, ServerState
from .issuing import Misissue, issued_for
from .pki import YEAR

PKCS10 = "application/pkcs10"
CERTS_ONLY = "application/pkcs7-mime"
MAX_BODY = 4096
_KEY_USAGE = bytes.fromhex("03020780")
_EXTENDED_KEY_USAGE = bytes.fromhex("300a06082b06010505070302")


class _RefusedError(Exception):
    """A CSR that the server does not sign; the message is what it says."""


@dataclass
class EstState(ServerState):
    """The CA behind an EST server, and how its answers look."""

    client_certificate: ssl.VerifyMode = ssl.CERT_OPTIONAL
    prefix: str = "/.well-known/est"
    status: int = 201
    content_type: str = CERTS_ONLY
    headers: dict[str, str] = field(default_factory=dict)
    line_breaks: bool = False
    pem_armour: bool = False
    validity: timedelta = YEAR
    lenient: bool = False
    """Take other usages and signature algorithms in a CSR than the reference does."""
    misissue: str | Misissue | None = None
    """A name of `issuing.MISISSUED`, or a function that changes the draft."""
    before: list[x509.Certificate | bytes] = field(default_factory=list)
    after: list[x509.Certificate | bytes] = field(default_factory=list)
    """What the answer holds before and after the issued certificate."""
    leave_out_issued: bool = False
    odd: Callable[[ec.EllipticCurvePublicKey], list[bytes]] | None = None
    """Issues what goes out in the place of the certificate (DER)."""
    raw_answer: bytes | None = None
    """A body to send in the place of the certificates (which are issued all the same)."""
    cacerts: list[x509.Certificate] | None = None
    """By default the root alone."""
    cacerts_status: int = 200
    csrattrs: bytes | None = None
    """DER; None: 404, empty: 204."""
    issued: list[x509.Certificate] = field(default_factory=list)
    csrs: list[bytes] = field(default_factory=list)
    """Every CSR that came (DER), also those that were postponed."""
    _postponed: list[str | None] = field(default_factory=list)

    def postpone(self, *retry_after: str | int | None) -> None:
        """Answer the next requests with 202 and these values of Retry-After (None: without it).

        The same CSR must come again after each.
        """
        self._postponed += [None if value is None else str(value) for value in retry_after]

    def reenrol(self, request: RecordedRequest) -> Answer:
        """Do simplereenroll."""
        if request.chain_length != 1 or request.certificate is None:
            return Answer.text(401, "Client must provide certificate")
        content_type = request.headers.get("Content-Type", "")
        if content_type != PKCS10:
            return Answer.text(400, f"Invalid content-type: {content_type}. Must be {PKCS10}")
        if len(request.body) > MAX_BODY:
            return Answer.text(413, f"Content-length too large: {len(request.body)}")
        try:
            csr = _read_csr(request.body)
            _check_names(csr, request.certificate)
            if not self.lenient:
                _check_form(csr)
            self._check_repeated(csr)
        except _RefusedError as error:
            return Answer.text(400, str(error))
        self.csrs.append(csr.public_bytes(Encoding.DER))
        if self._postponed:
            retry_after = self._postponed.pop(0)
            return Answer(202, b"", {} if retry_after is None else {"Retry-After": retry_after})
        return self._issue(csr)

    def _check_repeated(self, csr: x509.CertificateSigningRequest) -> None:
        """After a 202 the same request has to come (RFC 7030 §4.2.3)."""
        if self._waiting and self.csrs[-1] != csr.public_bytes(Encoding.DER):
            raise _RefusedError("Another CSR than the one that was postponed")

    @property
    def _waiting(self) -> bool:
        answered = [request.status for request in self.requests[:-1] if request.path.endswith("/simplereenroll")]
        return bool(self.csrs) and answered[-1:] == [202]

    def _issue(self, csr: x509.CertificateSigningRequest) -> Answer:
        issued: list[x509.Certificate | bytes]
        if self.odd is None:
            self.issued.append(issued_for(csr, self.pki, self.validity, self.misissue))
            issued = [] if self.leave_out_issued else self.issued[-1:]
        else:
            issued = self.odd(csr.public_key())
        bag = [*self.before, *issued, *self.after]
        body = self._encoded(bag) if self.raw_answer is None else self.raw_answer
        return Answer(self.status, body, {"Content-Type": self.content_type, **self.headers})

    def list_cacerts(self) -> Answer:
        """Do cacerts."""
        bag = [self.pki.root.certificate] if self.cacerts is None else self.cacerts
        return Answer(self.cacerts_status, self._encoded(bag), {"Content-Type": self.content_type, **self.headers})

    def list_csrattrs(self) -> Answer:
        """Do csrattrs."""
        if self.csrattrs is None:
            return _not_found()
        if not self.csrattrs:
            return Answer(204)
        return Answer(200, base64.b64encode(self.csrattrs), {"Content-Type": "application/csrattrs"})

    def _encoded(self, certificates: Sequence[x509.Certificate | bytes]) -> bytes:
        bag = certs_only(certificates)
        if self.pem_armour:
            return b"-----BEGIN PKCS7-----\n" + base64.encodebytes(bag) + b"-----END PKCS7-----\n"
        return base64.encodebytes(bag).replace(b"\n", b"\r\n") if self.line_breaks else base64.b64encode(bag)


class EstServer(HttpsServer):
    """Serves an EstState; `base_url` is what ESTSERVER names."""

    state: EstState

    @property
    def base_url(self) -> str:
        return self.url + self.state.prefix

    def respond(self, request: RecordedRequest) -> Answer:
        """Find the operation."""
        operations = {
            f"{self.state.prefix}/simplereenroll": ("POST", lambda: self.state.reenrol(request)),
            f"{self.state.prefix}/cacerts": ("GET", self.state.list_cacerts),
            f"{self.state.prefix}/csrattrs": ("GET", self.state.list_csrattrs),
        }
        if request.path not in operations:
            return _not_found()
        method, operation = operations[request.path]
        return operation() if request.method == method else Answer.json(405, {"message": "Method Not Allowed"})


def _not_found() -> Answer:
    return Answer.json(404, {"message": "Not Found"})


def _read_csr(body: bytes) -> x509.CertificateSigningRequest:
    text = body.replace(b"\r", b"").replace(b"\n", b"")
    stranger = re.search(rb"[^A-Za-z0-9+/=]", text)
    try:
        encoded = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        at = stranger.start() if stranger else len(text)
        raise _RefusedError(f"The CSR payload is not base64 encoded: illegal base64 data at input byte {at}") from error
    try:
        csr = x509.load_der_x509_csr(encoded)
        good = csr.is_signature_valid
    except (ValueError, InvalidSignature) as error:
        raise _RefusedError(f"The CSR could not be decoded: {error}") from error
    if not good:
        raise _RefusedError("The CSR signature is invalid: ECDSA verification failure")
    return csr


def _check_names(csr: x509.CertificateSigningRequest, current: x509.Certificate) -> None:
    subject = der.one(csr.tbs_certrequest_bytes).items[1].encoded
    if subject != Certificate.read(current.public_bytes(Encoding.DER)).subject:
        raise _RefusedError("Subject field of CSR must match the current client certificate")
    names = Certificate.read(current.public_bytes(Encoding.DER)).extension("2.5.29.17")
    if _extension(csr.extensions, x509.SubjectAlternativeName) != (names and names.value):
        raise _RefusedError("SubjectAltName field of CSR must match the current client certificate")


def _check_form(csr: x509.CertificateSigningRequest) -> None:
    if not isinstance(csr.public_key(), ec.EllipticCurvePublicKey) or not isinstance(
        csr.signature_hash_algorithm, hashes.SHA256
    ):
        raise _RefusedError("Signature algorithm of the CSR does not match that of the CA")
    if _extension(csr.extensions, x509.KeyUsage) != _KEY_USAGE:
        raise _RefusedError("The CSR could not be decoded: Unsupported CSR KeyUsage value")
    if _extension(csr.extensions, x509.ExtendedKeyUsage) != _EXTENDED_KEY_USAGE:
        raise _RefusedError("The CSR could not be decoded: Unsupported CSR ExtendedKeyUsage value")


def _extension(extensions: x509.Extensions, kind: type[x509.ExtensionType]) -> bytes | None:
    """Give the extension's value as it is encoded."""
    return next((each.value.public_bytes() for each in extensions if isinstance(each.value, kind)), None)
