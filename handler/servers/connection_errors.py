"""What a connection that broke off says: whether it may pass, and what to do, for a person."""

import http.client
import re
import ssl
from collections.abc import Iterator

import requests
import urllib3

from handler.errors import (
    AnswerError,
    ClockError,
    ConnectionLostError,
    OfflineError,
    PendingError,
    ServerRefusedError,
    UnreachableError,
    UntrustedError,
)

# Alerts by which a server refuses the client's certificate (RFC 8446 §6.2), as OpenSSL names them.
CERTIFICATE_ALERTS = frozenset(
    {
        "SSLV3_ALERT_HANDSHAKE_FAILURE",
        "SSLV3_ALERT_NO_CERTIFICATE",
        "SSLV3_ALERT_BAD_CERTIFICATE",
        "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE",
        "SSLV3_ALERT_CERTIFICATE_REVOKED",
        "SSLV3_ALERT_CERTIFICATE_EXPIRED",
        "SSLV3_ALERT_CERTIFICATE_UNKNOWN",
        "TLSV1_ALERT_UNKNOWN_CA",
        "TLSV1_ALERT_ACCESS_DENIED",
        "TLSV1_ALERT_DECRYPT_ERROR",
        "TLSV13_ALERT_CERTIFICATE_REQUIRED",
    }
)
BROKEN_OFF = (http.client.RemoteDisconnected, http.client.IncompleteRead)
"""What http.client makes of a connection that ends too soon."""
NOT_YET_VALID, EXPIRED, ANOTHER_NAME, ANOTHER_ADDRESS = 9, 10, 62, 64
UNKNOWN_CA = frozenset({2, 7, 18, 19, 20, 21})
"""X509_V_ERR_… (X509_STORE_CTX_get_error(3))."""


def judge(server: str, asked: str, error: Exception, *, ended: bool) -> PendingError:
    """Tell a transient failure (returned) from one that ends the call (raised).

    `server` is its name for a person, with host and port; `asked` the request, such as "GET /cacerts"; `ended`: the
    server has ended the connection. Gives AnswerError if what was sent is no answer, ConnectionLostError if a
    connection was there and broke, else UnreachableError. Raises OfflineError, ClockError, UntrustedError, and
    ServerRefusedError without a status if an alert refuses our certificate.
    """
    if isinstance(error, OfflineError):
        raise OfflineError(f"{server}: {asked}: {error}") from error
    if isinstance(error, AnswerError | UnreachableError):
        return type(error)(f"{server}: {asked}: {error}")
    broken: BaseException | None = None
    late, lost = False, ended
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            kind = ClockError if cause.verify_code == NOT_YET_VALID else UntrustedError
            raise kind(f"{server} presented a certificate that {_why_untrusted(cause)}") from error
        if isinstance(cause, ssl.SSLError) and cause.reason in CERTIFICATE_ALERTS:
            raise ServerRefusedError(
                f"{server}: {asked}: it refuses the certificate: TLS alert {_alert(cause)}"
            ) from error
        if isinstance(cause, http.client.HTTPException) and not isinstance(cause, BROKEN_OFF):
            broken = broken or cause
        lost = lost or (isinstance(cause, OSError) and not isinstance(cause, requests.RequestException))
        late = late or isinstance(cause, TimeoutError | requests.Timeout | urllib3.exceptions.TimeoutError)
    if broken is None and not late and not lost:
        broken = error
    if broken is not None:
        return AnswerError(f"{server}: {asked}: its answer is no proper HTTP ({str(broken) or type(broken).__name__})")
    return (UnreachableError if late else ConnectionLostError)(f"{server}: {asked}: {_plain(error)}")


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Walk everything that an exception wraps: requests and urllib3 nest the real one in several ways."""
    queue: list[object] = [error]
    seen: set[int] = set()
    while queue:
        item = queue.pop(0)
        if not isinstance(item, BaseException) or id(item) in seen:
            continue
        seen.add(id(item))
        yield item
        queue += [*item.args, getattr(item, "reason", None), item.__cause__, item.__context__]


def _plain(error: Exception) -> str:
    """Say in few words what went wrong with the connection."""
    if isinstance(error, requests.ConnectTimeout):
        return "no answer to the connection attempt in time"
    if isinstance(error, requests.Timeout | urllib3.exceptions.ReadTimeoutError):
        return "accepted the request but did not answer in time"
    for cause in reversed(list(_causes(error))):
        if isinstance(cause, ssl.SSLError):
            return f"TLS failed: {cause.reason or cause}"
        if isinstance(cause, TimeoutError):
            return "no answer in time"
        if isinstance(cause, OSError) and cause.strerror and not isinstance(cause, requests.RequestException):
            return cause.strerror
    return "the connection broke off before a whole answer"


def _alert(error: ssl.SSLError) -> str:
    return re.sub(r"^(SSLV3|TLSV1|TLSV13)_ALERT_", "", error.reason or "").replace("_", " ").lower()


def _why_untrusted(error: ssl.SSLCertVerificationError) -> str:
    if error.verify_code in UNKNOWN_CA:
        return "no CA in import.tls_cacert_path issued"
    if error.verify_code == NOT_YET_VALID:
        return "is not yet valid: set the clock of this device"
    if error.verify_code == EXPIRED:
        return "has expired: check the clock of this device, then that server"
    if error.verify_code in {ANOTHER_NAME, ANOTHER_ADDRESS}:
        return f"is for another name ({error.verify_message}): correct the address, or that server"
    return f"cannot be trusted: {error.verify_message}"
