"""What a connection that broke off says: whether it may pass, and what to do, for a person."""

import http.client
import re
import ssl
from collections.abc import Iterator

import requests
import urllib3

from handler.errors import AnswerError, ClockError, ConnectionLostError, PendingError, ServerRefusedError

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
NOT_YET_VALID = 9
"""X509_V_ERR_CERT_NOT_YET_VALID (X509_STORE_CTX_get_error(3))."""


def judge(host: str, error: Exception, *, ended: bool) -> PendingError:
    """Tell a transient failure (returned) from one that ends the call (raised). `host` may have a port.

    `ended`: the server has ended the connection.
    Gives AnswerError where what was sent is no answer, ConnectionLostError where a connection was there and broke, else
    PendingError. Raises ClockError, PendingError (its certificate is not trusted), and ServerRefusedError without a
    status where an alert says that it refuses ours.
    """
    if isinstance(error, AnswerError):
        return AnswerError(f"{host}: {error}")
    broken: BaseException | None = None
    late, lost = False, ended
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            kind = ClockError if cause.verify_code == NOT_YET_VALID else PendingError
            raise kind(_untrusted(host, cause)) from error
        if isinstance(cause, ssl.SSLError) and cause.reason in CERTIFICATE_ALERTS:
            raise ServerRefusedError(f"{host} refuses the certificate: TLS alert {_alert(cause)}") from error
        if isinstance(cause, http.client.HTTPException) and not isinstance(cause, BROKEN_OFF):
            broken = broken or cause
        lost = lost or (isinstance(cause, OSError) and not isinstance(cause, requests.RequestException))
        late = late or isinstance(cause, TimeoutError | requests.Timeout | urllib3.exceptions.TimeoutError)
    if broken is None and not late and not lost:
        broken = error
    if broken is not None:
        return AnswerError(f"{host}: its answer is no proper HTTP ({str(broken) or type(broken).__name__})")
    return (PendingError if late else ConnectionLostError)(f"{host}: {_plain(error)}")


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


def _untrusted(host: str, error: ssl.SSLCertVerificationError) -> str:
    return (
        f"{host} shows a certificate that is not trusted ({error.verify_message}): expected one of the CA file of the "
        "configuration; look at import.tls_cacert_path, the clock, and whether a captive portal stands in between"
    )
