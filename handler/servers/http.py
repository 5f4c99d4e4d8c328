"""HTTPS requests of one identity: TLS, time limits, retries, and a limit on the size of an answer.

* Only the CA file of the configuration is trusted; TLS 1.2 at least; the host name must match a subjectAltName.
  The environment (proxy, netrc, CA bundle) is ignored.
* Connection errors, time-outs, 408, 425, 429, 5xx (but 501 and 505), invalid HTTP, and markup as an answer (captive
  portals) are transient: retried after 1, 2, 5, 13 and 30 s, or later if Retry-After asks for it, within the deadline;
  then `PendingError`. The content of an answer counts, not its type.
* No network at all (no name resolution, no route) is `OfflineError` at once: nothing should wait for it at boot.
* A TLS alert about our certificate is final: `ServerRefusedError` without a status.
* A redirect is followed once, within the same origin.
* Any other answer goes to the caller.
"""

import logging
import ssl
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urljoin, urlsplit

import requests
import urllib3
from urllib3.exceptions import InvalidChunkLength

from handler import __version__
from handler.backoff import Turn, in_line
from handler.errors import (
    AnswerError,
    OfflineError,
    PageError,
    PendingError,
    PostponedError,
    RenewalError,
    ServerBusyError,
    ServerRefusedError,
    UnreachableError,
)
from hsm import tls
from hsm.errors import TlsBindingError, TokenError
from hsm.stopwatch import TOKENS

from .connection_errors import judge
from .response import Answer
from .transport import Allowance, Deadline, client_context, session

log = logging.getLogger(__name__)

TRANSIENT_STATUSES = frozenset({408, 425, 429, *range(500, 600)}) - {501, 505}
REDIRECT_STATUSES = frozenset({301, 302, 307, 308})
DONE_STATUSES = frozenset(range(200, 300)) - {202}  # which may come with a text for people (RFC 7030 §4.2.3)
FRAMING = 8
"""How many times the size of the body an answer may take with its head, in chunks of one byte."""
HEAD = 1_000_000
"""Bytes of the largest head: http.client reads 100 lines of 64 KB."""
TRANSPORT = (requests.RequestException, urllib3.exceptions.HTTPError)
OPTIONAL_RETRIES = 2
IDLE = 10.0
"""Seconds of token operations after which a connection is not used again: its server has waited too long."""
USER_AGENT = f"renew-client-cert/{__version__}"


class Limits(NamedTuple):
    """Limits of one call: times (seconds) and size of an answer (bytes)."""

    total: float = 120.0
    connect: float = 10.0
    read: float = 30.0
    retry_delays: tuple[float, ...] = (1.0, 2.0, 5.0, 13.0, 30.0)
    answer: int = 2_000_000
    lock_wait: float = 60.0


class HttpClient:
    """Requests with one client certificate, over one kept connection per server. For one thread.

    `authenticate` puts the identity into the new context; `name` is the server's in messages ("EST server").
    """

    def __init__(
        self,
        ca_file: Path,
        authenticate: Callable[[ssl.SSLContext], None],
        deadline: Deadline,
        limits: Limits | None = None,
        stop: threading.Event | None = None,
        name: str = "",
    ) -> None:
        self._name = name
        self._limits = limits or Limits()
        self._deadline = deadline
        self._stop = stop or threading.Event()
        self._context = client_context(ca_file)
        authenticate(self._context)
        self._watch: tls.Watch | None = None
        try:
            self._watch = tls.watch_requests(self._context)
        except TlsBindingError as error:
            log.debug("cannot see whether a server asks for the client certificate: %s", error)
        self.repeated = False
        """Whether the last request was sent more than once: an earlier answer may have been lost."""
        self._cut_off = False  # whether the last answer was a success that broke off
        self._token_before = TOKENS.seconds
        self._allowance = Allowance(deadline)
        self._session = session(self._context, self._allowance, self._limits.connect)

    @property
    def certificate_requested(self) -> bool | None:
        """Whether a server has asked for the client certificate so far; None if that cannot be seen."""
        return None if self._watch is None else self._watch.requests > 0

    def close(self) -> None:
        """Close the connections; the next request opens a new one."""
        self._session.close()

    def request(
        self,
        method: str,
        url: str,
        *,
        content_type: str,
        body: bytes | None = None,
        optional: bool = False,
        costly: bool = False,
        once: bool = False,
    ) -> Answer:
        """Send a request, retry transient failures, and return the final answer.

        `optional`: give up early on a busy server. `costly`: do not retry if the answer cannot be read or breaks off,
        because the server did its work. `once`: do not retry. Raises PendingError (AnswerError if the answer cannot be
        read, ServerBusyError, ConnectionLostError), OfflineError, ServerRefusedError, hsm.errors.TokenError.
        """
        retry = busy = 0
        while True:
            self.repeated = retry > 0
            failure, asked = self._attempt(method, url, content_type, body)
            if isinstance(failure, Answer):
                return failure
            busy += isinstance(failure, ServerBusyError)
            worked = self._cut_off or isinstance(failure, AnswerError)
            if (optional and (busy > OPTIONAL_RETRIES or asked)) or (costly and worked):
                raise failure
            if once:
                raise PostponedError(str(failure), datetime.now(UTC) + timedelta(seconds=asked)) if asked else failure
            turn = in_line(asked, self._limits.retry_delays, retry, self._deadline.remaining)
            if turn.delay is None:
                raise failure
            if turn.wait is not None:
                log.info("%s; retrying in %.0f s", failure, turn.wait)
            self._wait(turn, failure, asked=bool(asked))
            retry += 1

    def wait(self, seconds: float, reason: PendingError) -> None:
        """Wait as long as the server asked for. Raises PostponedError with `reason` if that exceeds the deadline."""
        self._wait(in_line(seconds, (seconds,), 0, self._deadline.remaining), reason, asked=True)

    def _wait(self, turn: Turn, reason: PendingError, *, asked: bool) -> None:
        """Wait, or raise `reason`: as PostponedError if the server `asked`, which later calls heed."""
        if turn.wait is None or self._stop.is_set():
            if asked:
                raise PostponedError(str(reason), datetime.now(UTC) + timedelta(seconds=turn.delay or 0.0)) from reason
            raise reason
        if self._stop.wait(turn.wait):
            raise reason

    def _attempt(
        self, method: str, url: str, content_type: str, body: bytes | None
    ) -> tuple[Answer | PendingError, float | None]:
        """Send once. Return the answer, or the transient failure and the seconds that the server asks to wait."""
        try:
            answer = self._send(method, url, content_type, body)
            log.debug("%s: HTTP %d, %d bytes", answer.asked, answer.status, len(answer.body))
            if answer.status in REDIRECT_STATUSES:
                answer = self._send(method, self._same_origin(answer), content_type, body)
        except (AnswerError, OfflineError, UnreachableError, *TRANSPORT) as error:
            return self._judge(method, url, error), None
        if answer.status in TRANSIENT_STATUSES:
            words = f": {answer.words}" if answer.words and not answer.is_markup else ""
            return ServerBusyError(f"{answer.asked}: it answered HTTP {answer.status}{words}"), answer.retry_after
        if answer.status in DONE_STATUSES and answer.is_markup:
            said = f"{answer.asked}: it gave a web page, as a captive portal does: log in to the network"
            return PageError(said), None
        return answer, None

    def _send(self, method: str, url: str, content_type: str, body: bytes | None) -> Answer:
        asked = f"{self._who(url)}: {_asked(method, url)}"
        remaining = self._deadline.remaining
        if not remaining:
            raise PendingError(f"{asked}: no time is left in this call: try again")
        if TOKENS.seconds - self._token_before > IDLE:
            self.close()
        timeouts = (min(self._limits.connect, remaining), min(self._limits.read, remaining))
        headers = {
            "User-Agent": USER_AGENT,
            "Accept": "*/*",
            "Accept-Encoding": "identity",  # no bomb in a small answer
            "Content-Type": content_type,
        }
        self._allowance.renew(FRAMING * self._limits.answer + HEAD)
        self._cut_off = False
        try:
            with self._session.request(
                method, url, data=body, headers=headers, timeout=timeouts, allow_redirects=False, stream=True
            ) as response:
                if self._allowance.ended:  # http.client takes what it has for the whole head
                    raise requests.ConnectionError("the connection ended inside the head of the answer")
                self._cut_off = response.status_code in DONE_STATUSES
                content = self._read(response, asked)
                self._cut_off = False
                self._token_before = TOKENS.seconds
                return Answer(url, response.status_code, response.headers, content, asked)
        except (RenewalError, TokenError, OSError, RuntimeError, urllib3.exceptions.HTTPError):
            raise
        except Exception as error:  # http.client and urllib3 accept much that is no answer
            log.debug("reading an answer", exc_info=True)
            raise AnswerError(f"its answer cannot be read ({type(error).__name__}: {error})") from error

    def _read(self, response: requests.Response, asked: str) -> bytes:
        encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
        if encoding not in {"", "identity"}:
            raise AnswerError(f"its answer is encoded as {encoding}, though that was not asked for")
        too_long = ServerRefusedError(
            f"{asked}: its answer has more than {self._limits.answer} bytes: check that server",
            response.status_code,  # none would mean that it refused the certificate
        )
        if (response.raw.length_remaining or 0) > self._limits.answer:
            raise too_long
        content = bytearray()
        try:
            for chunk in response.raw.stream(65536, decode_content=False):
                content += chunk
                if len(content) > self._limits.answer:
                    raise too_long
                if not self._deadline.remaining:
                    raise PendingError(f"{asked}: it takes too long to send its answer")
        except urllib3.exceptions.HTTPError as error:  # for which the server may have closed the connection
            invalid = isinstance(error.__cause__, InvalidChunkLength) and error.__cause__.length
            if invalid or (response.raw.chunk_left or 0) < 0:
                raise AnswerError("its answer has a chunk of an invalid size") from error
            raise
        return bytes(content)

    def _same_origin(self, answer: Answer) -> str:
        old, target, wrong = urlsplit(answer.url), "", ""
        try:
            target = urljoin(answer.url, answer.headers.get("Location", ""))
            new = urlsplit(target)
            if (old.scheme, old.hostname, old.port or 443) != (new.scheme, new.hostname, new.port or 443):
                wrong = f"{new.scheme}://{new.hostname or ''}: another origin is not followed"
            elif "@" in new.netloc:
                wrong = "an address with a name and a password in it: it is not followed"
        except ValueError:
            wrong = "an invalid address"
        if wrong:
            raise ServerRefusedError(
                f"{answer.asked}: it redirects to {wrong}; configure the address that answers itself",
                answer.status,
            )
        return target

    def _who(self, url: str) -> str:
        return f"{self._name} {urlsplit(url).netloc}".lstrip()

    def _judge(self, method: str, url: str, error: Exception) -> PendingError:
        """Return a transient failure; raise one that ends the call."""
        signing = tls.signing_error(self._context)
        if signing is not None:
            if isinstance(signing, (TokenError, KeyboardInterrupt)):
                raise signing from error
            raise RuntimeError("the private key failed inside a TLS handshake") from signing
        if self._watch is not None and tls.asks_without_end(self._context, self._watch):
            error = AnswerError("it asks for TLS handshakes without end")
        unseen = self.certificate_requested is False
        return judge(self._who(url), _asked(method, url), error, ended=self._allowance.ended, unseen=unseen)


def _asked(method: str, url: str) -> str:
    """Return method and last part of the path, for a person."""
    return f"{method} /{urlsplit(url).path.rpartition('/')[2]}"
