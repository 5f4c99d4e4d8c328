"""Below a request: trust, limits on time and bytes, and the final answer.

urllib3 makes the connections, but each one uses the TLS context made here, whatever the version of requests (one of
them used a context that trusts the system's CAs). All bytes of an answer, with head and framing, are counted as they
leave TLS, so that no line and no chunk grows without end.
"""

import errno
import http.client
import logging
import socket
import ssl
import threading
import time
from collections.abc import Sequence
from email.errors import MissingHeaderBodySeparatorDefect
from pathlib import Path
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPSConnection
from urllib3.connectionpool import HTTPSConnectionPool

from handler.crypto.bag import certificates_in_pem
from handler.errors import AnswerError, OfflineError, PendingError, UnreachableError
from hsm.stopwatch import TOKENS

log = logging.getLogger(__name__)

MAX_INTERIM = 16  # answers (1xx, RFC 9110 §15.2) before the final one
IN_ALL = 300.0  # seconds that a call may take with a slow token
NO_NETWORK = {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}


class Deadline:
    """The end of a call, on the monotonic clock: `seconds` without those of token operations, `IN_ALL` with them."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._began = time.monotonic()
        self._token_before = TOKENS.seconds

    def extend(self, seconds: float) -> None:
        """Put the moment off, by what something else took."""
        self._began += seconds

    @property
    def remaining(self) -> float:
        """Seconds left, at least 0."""
        granted = self._seconds + TOKENS.seconds - self._token_before
        return max(0.0, min(granted, max(self._seconds, IN_ALL)) - (time.monotonic() - self._began))


class Allowance:
    """The bytes that an answer may still take, and the end of the call."""

    def __init__(self, deadline: Deadline) -> None:
        self.deadline = deadline
        self._left = 0
        self.ended = False
        """Whether the server has closed the connection."""

    def renew(self, size: int) -> None:
        """Allow so many bytes for the next answer."""
        self._left, self.ended = size, False

    def take(self, count: int) -> None:
        """Count bytes that were read, 0 at the end. Raises AnswerError if there are too many."""
        self._left -= count
        self.ended = count == 0
        if self._left < 0:
            raise AnswerError("its answer is too large, head and framing included")


def session(context: ssl.SSLContext, allowance: Allowance, connect_timeout: float) -> requests.Session:
    """Make a session for HTTPS only, with that context, that ignores the environment."""
    context.sslsocket_class = _socket_class(allowance)
    made = _Session()
    made.trust_env = False
    made.headers.clear()
    made.adapters.clear()
    made.mount("https://", _Adapter(_pool_class(context, allowance.deadline, connect_timeout)))
    return made


def client_context(ca_file: Path) -> ssl.SSLContext:
    """Make the context of a client that trusts only the CA file. Raises OSError naming the file."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # RFC 8996
    context.hostname_checks_common_name = False  # RFC 9525 §6.3: only subjectAltName
    context.post_handshake_auth = True  # a server may ask for the certificate after it has seen the path
    # Every certificate of the file is an anchor, as for the Go client: an intermediate CA alone is enough.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        context.load_verify_locations(cafile=str(ca_file))
    except OSError as error:
        error.filename = str(ca_file)
        if not isinstance(error, ssl.SSLError) or not _trust_each(context, ca_file):
            raise
    return context


def _trust_each(context: ssl.SSLContext, ca_file: Path) -> bool:
    """Trust the certificates of a file that OpenSSL can read; return whether there are any."""
    found, _ = certificates_in_pem(ca_file.read_bytes())
    for certificate in found:
        try:
            context.load_verify_locations(cadata=certificate.der)
        except ssl.SSLError as error:
            log.warning("%s: certificate %s is skipped, it cannot be read: %s", ca_file, certificate.serial, error)
    return bool(context.get_ca_certs(binary_form=True))


def connect(host: str, port: int, deadline: Deadline, timeout: float) -> socket.socket:
    """Open a TCP connection to the first address of `host` that takes one. Raises OfflineError, UnreachableError."""
    results: list[list[tuple[int, Any]] | Exception] = []

    def resolve() -> None:
        try:
            found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
            results.append([(family, address) for family, _, _, _, address in found])
        except (OSError, UnicodeError) as error:
            results.append(error)

    # The resolver has time limits of its own, minutes with some name servers that are silent: it is not waited for.
    resolver = threading.Thread(target=resolve, daemon=True)
    resolver.start()
    resolver.join(deadline.remaining)
    if not results:
        raise OfflineError("the name cannot be resolved: no name server answers in time")
    resolved = results[0]
    if isinstance(resolved, Exception):
        raise OfflineError("the name cannot be resolved: no network yet, or a wrong name") from resolved
    return connect_to_first(resolved, deadline, timeout)


def connect_to_first(addresses: Sequence[tuple[int, Any]], deadline: Deadline, timeout: float) -> socket.socket:
    """Open a TCP connection to the first address (family, sockaddr) that takes one; each gets its share of the time.

    Raises UnreachableError, or OfflineError if there is no route to any, without naming the server.
    """
    failures: list[OSError] = []
    for number, (family, address) in enumerate(addresses):
        share = deadline.remaining / (len(addresses) - number)
        if not share:
            break
        made = None
        try:
            made = socket.socket(family, socket.SOCK_STREAM)
            made.settimeout(min(timeout, share))
            made.connect(address)
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            failures.append(error)
            if made is not None:
                made.close()
        else:
            return made
    raise _best(failures)


def _best(failures: list[OSError]) -> PendingError:
    """Judge by the most responsive address: one that refuses exists, a silent one may."""
    refused = [error for error in failures if error.errno not in NO_NETWORK and not isinstance(error, TimeoutError)]
    if refused:
        return UnreachableError(refused[0].strerror or str(refused[0]))
    if not failures or any(isinstance(error, TimeoutError) for error in failures):
        return UnreachableError("no answer to the connection attempt in time")
    return OfflineError(f"it cannot be reached: {failures[0].strerror}")


class _Response(http.client.HTTPResponse):
    """Skips interim answers, which http.client takes for the final one (except 100), and knows where an answer ends."""

    _interim = 0

    def begin(self) -> None:
        """Read the head. Raises HTTPException for a lost or wrong length: http.client would wait for the end."""
        super().begin()
        if self.length is None and not self.chunked:
            if "Content-Length" in self.headers:
                raise http.client.HTTPException(f"Content-Length: {self.headers['Content-Length']:.40}")
            if any(isinstance(each, MissingHeaderBodySeparatorDefect) for each in self.headers.defects):
                raise http.client.HTTPException("a line of its head is no header")

    def _read_status(self) -> tuple[str, int, str]:
        while True:
            version, status, reason = super()._read_status()  # type: ignore[misc]
            if not http.client.CONTINUE <= status < http.client.OK:
                return version, status, reason
            self._interim += 1
            if status == http.client.SWITCHING_PROTOCOLS or self._interim > MAX_INTERIM:
                raise http.client.HTTPException(f"HTTP {status} where an answer was expected")
            if status == http.client.CONTINUE:
                return version, status, reason  # http.client itself skips its head
            http.client.parse_headers(self.fp)


def _pool_class(context: ssl.SSLContext, deadline: Deadline, connect_timeout: float) -> type[HTTPSConnectionPool]:
    class Connection(HTTPSConnection):
        response_class = _Response

        def _new_conn(self) -> socket.socket:
            return connect(self.host, self.port or 443, deadline, connect_timeout)

        def connect(self) -> None:
            self.ssl_context = context
            self.cert_reqs = ssl.CERT_REQUIRED
            self.ca_certs = self.ca_cert_dir = self.ca_cert_data = None
            super().connect()
            if getattr(self.sock, "context", None) is not context:
                self.close()
                raise RuntimeError("this version of urllib3 does not use the TLS context that it is given")

    class Pool(HTTPSConnectionPool):
        ConnectionCls = Connection

    return Pool


def _socket_class(allowance: Allowance) -> type[ssl.SSLSocket]:
    """Make sockets that stop reading when the time is up or the answer too large: a server may drip bytes."""

    class CountingSocket(ssl.SSLSocket):
        def send(self, *arguments: Any) -> int:  # noqa: ANN401
            self.settimeout(max(allowance.deadline.remaining, 0.001))  # a body may take longer than to connect
            return super().send(*arguments)

        def recv_into(self, *arguments: Any) -> int:  # noqa: ANN401
            if not (left := allowance.deadline.remaining):
                raise TimeoutError("the time is up")
            self.settimeout(min(self.gettimeout() or left, left))
            count = super().recv_into(*arguments)
            allowance.take(count)
            return count

    return CountingSocket


class _Session(requests.Session):
    """Ignores redirects: requests would read their whole body, however big, and parse the address."""

    def get_redirect_target(self, resp: requests.Response) -> str | None:  # noqa: ARG002
        return None


class _Adapter(HTTPAdapter):
    """Makes connections of that class."""

    def __init__(self, pool_class: type[HTTPSConnectionPool]) -> None:
        self._pool_class = pool_class
        super().__init__(pool_connections=2, pool_maxsize=1, max_retries=0)

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **kwargs: Any) -> None:  # noqa: ANN401
        super().init_poolmanager(connections, maxsize, block, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"https": self._pool_class}

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:  # noqa: ANN401
        """Add nothing: the context has trust and identity."""
