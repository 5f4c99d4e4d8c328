"""HTTPS with mutual TLS over a plain state object: the part that gateway and EST server share.

A request is recorded in the state first, then spoilt if a fault says so, then answered by `respond`, one at a time.
"""

import abc
import contextlib
import json
import os
import socket
import ssl
import struct
import threading
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler
from typing import Any

from cryptography import x509

from .faults import Fault, Faults
from .listener import Listener
from .pki import Authority, FactoryPki, certificate_pem, load_identity, revocation_list, spki_pem

HANDSHAKE_SECONDS = 10.0
IDLE_SECONDS = 120.0
LINGER_SECONDS = 1.0
MAX_BODY = 10_000_000


@dataclass
class RecordedRequest:
    """One request, as it was received."""

    method: str
    path: str
    headers: Message
    body: bytes = field(repr=False)
    certificate: x509.Certificate | None = field(repr=False)
    chain_length: int
    """How many certificates the client presented: 1 without a chain, 0 without a certificate."""
    connection: int
    tls_version: str
    status: int | None = None
    """What was answered; None while it is not, and where the client got no answer."""

    @property
    def serial(self) -> int | None:
        return None if self.certificate is None else self.certificate.serial_number

    @property
    def public_key(self) -> str | None:
        """The client's public key (SPKI, PEM)."""
        return None if self.certificate is None else spki_pem(self.certificate.public_key())

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Answer:
    """What the server answers."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def text(cls, status: int, text: str) -> "Answer":
        return cls(status, text.encode(), {"Content-Type": "text/plain; charset=UTF-8"})

    @classmethod
    def json(cls, status: int, value: object, headers: Mapping[str, str] | None = None) -> "Answer":
        body = json.dumps(value, separators=(",", ":")).encode() + b"\n"
        return cls(status, body, {"Content-Type": "application/json; charset=UTF-8", **(headers or {})})


@dataclass
class ServerState:
    """What both servers keep, and the settings of their TLS. Settings hold from the next connection on."""

    pki: FactoryPki
    faults: Faults = field(default_factory=Faults)
    requests: list[RecordedRequest] = field(default_factory=list)
    connections: int = 0
    """TLS handshakes that succeeded."""
    refused_handshakes: list[str] = field(default_factory=list)
    """Why handshakes failed, in OpenSSL's words."""
    client_certificate: ssl.VerifyMode = ssl.CERT_REQUIRED
    """Whether one is asked for, and whether a handshake without one fails."""
    trusted: list[Authority] = field(default_factory=list)
    """The CAs of client certificates; by default the device CA and the factory's root."""
    server_identity: Authority | None = None
    """By default one for the names of loopback, issued by the servers' root."""
    minimum_version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2
    maximum_version: ssl.TLSVersion = ssl.TLSVersion.MAXIMUM_SUPPORTED

    def __post_init__(self) -> None:
        self.lock = threading.RLock()
        self.trusted = self.trusted or [self.pki.device_ca, self.pki.root]
        self.server_identity = self.server_identity or self.pki.server_identity()

    def calls(self) -> list[tuple[str, str]]:
        """Give method and path of every request, in order."""
        return [(request.method, request.path) for request in self.requests]

    def revoked(self) -> set[int]:
        """Give the serial numbers that are refused in the handshake."""
        return self.faults.refused_serials(self.pki)

    def server_context(self) -> ssl.SSLContext:
        """Make the TLS settings of one connection."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = self.minimum_version
        context.maximum_version = self.maximum_version
        context.verify_mode = self.client_certificate
        # A resumed session would not show its certificate again.
        context.options |= ssl.OP_NO_TICKET
        context.num_tickets = 0
        load_identity(context, self.server_identity.key, self.server_identity.certificate)
        context.load_verify_locations(cadata=certificate_pem(*(each.certificate for each in self.trusted)).decode())
        revoked = self.revoked()
        if revoked:
            _revoke(context, self.trusted, revoked)
        return context


class HttpsServer(Listener):
    """Serves a state over HTTPS; `url` is its base."""

    def __init__(self, state: ServerState, host: str = "127.0.0.1") -> None:
        super().__init__(host)
        self.state = state

    @property
    def url(self) -> str:
        return f"https://{self.netloc}"

    @abc.abstractmethod
    def respond(self, request: RecordedRequest) -> Answer:
        """Decide the answer, and do what the request asks."""

    def serve_connection(self, connection: socket.socket, number: int) -> None:
        """Do the handshake, within its time limit, then answer requests until either side leaves."""
        fault = self.state.faults.for_connection()
        if fault is not None:
            self._spoil_connection(fault, connection)
            return
        connection.settimeout(HANDSHAKE_SECONDS)
        context = self.state.server_context()
        tls = context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        self.watch(number, tls)
        try:
            tls.do_handshake()
        except ssl.SSLError as error:
            self.state.refused_handshakes.append(error.reason or str(error))
            _linger(tls)
            return
        with self.state.lock:
            self.state.connections += 1
        tls.settimeout(IDLE_SECONDS)
        _Conversation(tls, ("", 0), self, number)

    def serve(self, request: RecordedRequest, conversation: "_Conversation") -> None:
        """Answer one request, or spoil it."""
        with self.state.lock:
            self.state.requests.append(request)
        fault = self.fault_for(request) or Fault(request.method, request.path)
        self.stopping.wait(fault.delay)
        answer = Answer(500)
        if fault.does_work:
            with self.state.lock:
                answer = self.respond(request)
        if fault.hang is not None:
            self._hang(fault.hang)
        if fault.ends_connection:
            conversation.leave(reset=fault.reset)
            return
        if fault.replaces_answer:
            answer = Answer(fault.status or 200, fault.body or b"x" * (fault.huge or 0), fault.headers)
        else:
            answer = Answer(answer.status, answer.body, {**answer.headers, **fault.headers})
        request.status = answer.status
        conversation.send(answer, cut=fault.cut)

    def fault_for(self, request: RecordedRequest) -> Fault | None:
        """Give the misbehaviour for this request, if there is any."""
        return self.state.faults.for_request(request.method, request.path)

    def _spoil_connection(self, fault: Fault, connection: socket.socket) -> None:
        self.stopping.wait(fault.delay)
        if fault.hang is not None:
            self._hang(fault.hang)
        if fault.reset:
            _reset_on_close(connection)

    def _hang(self, until: float | threading.Event) -> None:
        if isinstance(until, threading.Event):
            while not self.stopping.is_set() and not until.wait(0.02):
                pass
        else:
            self.stopping.wait(until)


class _Conversation(BaseHTTPRequestHandler):
    """The requests of one connection."""

    protocol_version = "HTTP/1.1"

    def __init__(self, connection: ssl.SSLSocket, client: tuple[str, int], server: HttpsServer, number: int) -> None:
        self._number = number
        self._chain = connection._sslobj.get_unverified_chain() or []
        der = connection.getpeercert(binary_form=True) if self._chain else None
        with warnings.catch_warnings():  # of serial numbers that are none
            warnings.simplefilter("ignore")
            self._certificate = x509.load_der_x509_certificate(der) if der else None
        self._https = server
        super().__init__(connection, client, server)

    def serve_one(self) -> None:
        if self.request_version == "HTTP/1.0":
            self.protocol_version = "HTTP/1.0"  # as the servers in Go answer it; libest's client takes nothing else
        length = int(self.headers.get("Content-Length") or 0)
        if length > MAX_BODY or "Transfer-Encoding" in self.headers:
            self.send(Answer.text(411, "Content-Length expected"))
            self.close_connection = True
            return
        body = self.rfile.read(length)
        if len(body) < length:
            self.close_connection = True
            return
        request = RecordedRequest(
            method=self.command,
            path=self.path,
            headers=self.headers,
            body=body,
            certificate=self._certificate,
            chain_length=len(self._chain),
            connection=self._number,
            tls_version=self.connection.version() or "",
        )
        self._https.serve(request, self)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = serve_one  # noqa: N815 - http.server's names

    def send(self, answer: Answer, cut: int | None = None) -> None:
        """Send an answer; `cut`: only so many bytes of its body, then leave."""
        self.send_response_only(answer.status)
        if not any(name.lower() == "date" for name in answer.headers):
            self.send_header("Date", self.date_time_string())
        for name, value in answer.headers.items():
            self.send_header(name, value)
        body = b"" if answer.status in (204, 304) else answer.body
        if answer.headers.get("Transfer-Encoding") == "chunked":
            pieces = [body[at : at + 100] for at in range(0, len(body), 100)]
            body = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
        elif answer.status not in (204, 304):
            self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        # One write: header and body in one packet.
        self._headers_buffer.append(b"\r\n" + body[:cut])
        self.flush_headers()
        if cut is not None:
            self.leave(reset=False)

    def leave(self, *, reset: bool) -> None:
        """Close the connection without another word."""
        if reset:
            _reset_on_close(self.connection)
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
        """Say nothing: the requests are recorded in the state."""


def _revoke(context: ssl.SSLContext, authorities: Iterable[Authority], serials: set[int]) -> None:
    """Refuse those serial numbers, whichever of the authorities issued them."""
    descriptor = os.memfd_create("revoked")
    try:
        os.write(descriptor, b"".join(revocation_list(each, serials) for each in authorities))
        context.load_verify_locations(cafile=f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
    context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF


def _linger(connection: socket.socket) -> None:
    """Let the client read our alert: closing with its request unread would reset the connection, and lose the alert."""
    with contextlib.suppress(OSError):
        socket.socket.shutdown(connection, socket.SHUT_WR)
        connection.settimeout(LINGER_SECONDS)
        while socket.socket.recv(connection, 65536):
            pass


def _reset_on_close(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
