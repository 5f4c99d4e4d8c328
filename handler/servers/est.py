"""EST client: simplereenroll and cacerts (RFC 7030, clarified by RFC 8951)."""

import base64
import logging
import re
from datetime import datetime

from handler.crypto.bag import certificates_in
from handler.crypto.csr import NOTHING, CsrAttributes
from handler.errors import AnswerError, PageError, PendingError, ServerBusyError, ServerRefusedError
from hsm.certificate import Certificate

from .csrattrs import parse_csrattrs
from .http import HttpClient
from .response import Answer

log = logging.getLogger(__name__)

EST_SERVER = "EST server"
"""Its name in messages."""
ISSUED_STATUSES = frozenset({200, 201})  # RFC 7030 §4.2.3 says 200; estserver answers 201
MIN_WAIT = 1.0
DEFAULT_WAIT = 30.0
"""Seconds to wait after a 202 without Retry-After."""
_PASSWORD = re.compile(r"(?:^|,)\s*(basic|digest)(?=[\s,]|$)", re.IGNORECASE)
"""One of the challenges of WWW-Authenticate (RFC 9110 §11.6.1)."""
_AROUND = re.compile(rb"\A\xef\xbb\xbf|-----(?:BEGIN|END) [A-Z0-9 #]+-----|[\s\0]+")
"""A mark of UTF-8, PEM armour, white space (RFC 8951 §3.1), and the NUL of a text in C."""
CLIENT_ERRORS = range(400, 500)
CSR_REFUSALS = frozenset({400, 422})
"""Statuses that may mean that the server wants another CSR."""


class EstClient:
    """Client of one EST server. `url`: its base, e.g. `https://host:8443/.well-known/est`; `http` has the identity."""

    def __init__(self, url: str, http: HttpClient) -> None:
        self._url = url.rstrip("/")
        self.http = http
        self.server_time: datetime | None = None
        """The server's clock when it issued the certificate, if it gave the time."""
        self.refusal: ServerRefusedError | None = None  # of /cacerts: a 4xx, or a page in its place

    def reenroll(self, csr: bytes) -> list[Certificate]:
        """Send the CSR (DER) to simplereenroll and return the certificates of the answer (RFC 7030 §4.2.2).

        After 202 it waits for Retry-After, 1 s to 24 h, and repeats the request over a new connection (§4.2.3), within
        the deadline. Raises PendingError (AnswerError if the answer holds no certificates), ServerRefusedError.
        """
        # In lines, as in MIME: libest takes nothing else, and other servers SHOULD tolerate them (RFC 8951 §3.1).
        body = base64.encodebytes(csr)
        while True:
            answer = self.http.request(
                "POST", f"{self._url}/simplereenroll", content_type="application/pkcs10", body=body, costly=True
            )
            if answer.status in ISSUED_STATUSES:
                self.server_time = answer.date
                return certificates_of(answer)
            if answer.status != 202:  # noqa: PLR2004
                raise _refusal(answer)
            seconds = max(MIN_WAIT, DEFAULT_WAIT if answer.retry_after is None else answer.retry_after)
            reason = PendingError(f"{answer.asked}: it asks to come back in {seconds:.0f} s")
            log.info("%s", reason)
            self.http.wait(seconds, reason)
            self.http.close()

    def cacerts(self) -> list[Certificate] | None:
        """Fetch the CA certificates (RFC 7030 §4.1.3); None if it gives none. Raises as `_optional`."""
        try:
            answer = self._optional("cacerts")
            if answer and answer.status in CLIENT_ERRORS:
                self.refusal = answer.refusal("no CA certificates were given")
            return certificates_of(answer) if answer and answer.status == 200 else None  # noqa: PLR2004
        except (AnswerError, PageError, ServerBusyError) as error:
            if isinstance(error, PageError):
                self.refusal = ServerRefusedError(str(error), 0)  # like no HTTP status
            log.info("the EST server's /cacerts cannot be read: %s", error)
            return None

    def csrattrs(self) -> CsrAttributes:
        """Fetch what the server wants in a CSR (RFC 7030 §4.5.2); NOTHING if unreadable. Raises as `_optional`."""
        try:
            answer = self._optional("csrattrs")
            if not answer or answer.status != 200 or not (data := _decoded(answer)):  # noqa: PLR2004 - 204, 404: none
                return NOTHING
            return parse_csrattrs(data)
        except (ValueError, AnswerError, PageError, ServerBusyError) as error:
            log.warning("the EST server's /csrattrs cannot be read and is ignored: %s", error)
            return NOTHING

    def _optional(self, name: str) -> Answer | None:
        """Ask for what a server need not give. Raises PendingError, ServerRefusedError (a TLS alert)."""
        try:
            return self.http.request("GET", f"{self._url}/{name}", content_type="application/pkcs10", optional=True)
        except ServerRefusedError as error:
            if error.status is None:
                raise
            return None


def certificates_of(answer: Answer) -> list[Certificate]:
    """Read the certificates of a certs-only answer in order; log and skip unreadable ones. Raises AnswerError.

    The body is base64 of a DER PKCS#7; its type and Content-Transfer-Encoding are ignored.
    """
    kind = answer.headers.get("Content-Type", "")
    received = f"{answer.asked}: its answer ({len(answer.body)} bytes, type '{kind}')"
    try:
        found, notes = certificates_in(_decoded(answer))
    except ValueError as error:
        raise AnswerError(f"{received} is not base64 of a certs-only PKCS#7: {error}") from error
    for note in notes:
        log.warning("%s: %s", received, note)
    if not found:
        raise AnswerError(
            f"{answer.asked}: its answer holds no certificate" + "".join(f": {each}" for each in notes[:1])
        )
    return found


def _decoded(answer: Answer) -> bytes:
    """Decode a body of base64, without what servers put around it (`_AROUND`), or of plain DER. Raises ValueError."""
    if answer.body.startswith(b"0"):  # the tag of a SEQUENCE, whose base64 begins with M
        return answer.body
    return base64.b64decode(_AROUND.sub(b"", answer.body), validate=True)


def _refusal(answer: Answer) -> ServerRefusedError:
    if answer.status != 401:  # noqa: PLR2004
        return answer.refusal("no certificate was issued")
    scheme = _PASSWORD.search(answer.headers.get("WWW-Authenticate", ""))
    if scheme:
        return ServerRefusedError(
            f"{answer.asked}: it asks for a password (HTTP {scheme[1]}), which this device does not have: set it up "
            "for client certificate authentication (RFC 7030, section 3.3.2)",
            answer.status,
        )
    return answer.refusal(
        "no certificate was issued, because the server does not recognise this device (check that it has client "
        "certificate authentication and trusts the CA of this device)"
    )
