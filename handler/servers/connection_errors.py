"""Failed connections: whether the failure may pass, and what to do, for a person."""

import http.client
import re
import ssl
from collections.abc import Iterator

import requests
import urllib3

from handler import errors

# Alerts by which a server refuses the client's certificate (RFC 8446 §6.2), as OpenSSL names them.
_CERTIFICATE_ALERT = re.compile(
    r"(?:SSLV3|TLSV1|TLSV13)_ALERT_(HANDSHAKE_FAILURE|NO_CERTIFICATE|BAD_CERTIFICATE|UNSUPPORTED_CERTIFICATE|"
    r"CERTIFICATE_REVOKED|CERTIFICATE_EXPIRED|CERTIFICATE_UNKNOWN|CERTIFICATE_REQUIRED|UNKNOWN_CA|ACCESS_DENIED|"
    r"DECRYPT_ERROR)"
)
BROKEN_OFF = (http.client.RemoteDisconnected, http.client.IncompleteRead)
"""http.client's errors for a connection that ends too soon."""
NOT_YET_VALID, _ANOTHER = 9, "is for another name ({}): correct the address, or that server"
_UNTRUSTED = dict.fromkeys((2, 7, 18, 19, 20, 21), "no CA in import.tls_cacert_path issued") | {
    NOT_YET_VALID: "is not yet valid: set the clock of this device",
    10: "has expired: check the clock of this device, then that server",
    62: _ANOTHER,
    64: _ANOTHER,
}
"""By X509_V_ERR_… (X509_STORE_CTX_get_error(3))."""


def judge(server: str, asked: str, error: Exception, *, ended: bool, unseen: bool = False) -> errors.PendingError:
    """Return a transient failure; raise one that ends the call.

    `server` is its name for a person, with host and port; `asked` the request ("GET /cacerts"); `ended`: the server has
    closed the connection; `unseen`: it has never asked for our certificate, so no alert is about that. Returns
    AnswerError for an invalid answer, ConnectionLostError for a broken connection, else UnreachableError. Raises
    OfflineError, ClockError, UntrustedError, and ServerRefusedError without a status if an alert refuses it.
    """
    where = f"{server}: {asked}"
    if isinstance(error, errors.OfflineError):
        raise errors.OfflineError(f"{where}: {error}") from error
    if isinstance(error, errors.AnswerError | errors.UnreachableError):
        return type(error)(f"{where}: {error}")
    broken: BaseException | None = None
    late, lost = False, ended
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            kind = errors.ClockError if cause.verify_code == NOT_YET_VALID else errors.UntrustedError
            why = _UNTRUSTED.get(cause.verify_code, "cannot be trusted: {}").format(cause.verify_message)
            raise kind(f"{server} presented a certificate that {why}") from error
        alert = isinstance(cause, ssl.SSLError) and _CERTIFICATE_ALERT.fullmatch(cause.reason or "")
        if alert and not unseen:
            words = alert[1].replace("_", " ").lower()
            raise errors.ServerRefusedError(f"{where}: it refuses the certificate: TLS alert {words}") from error
        if isinstance(cause, http.client.HTTPException) and not isinstance(cause, BROKEN_OFF):
            broken = broken or cause
        lost = lost or (isinstance(cause, OSError) and not isinstance(cause, requests.RequestException))
        late = late or isinstance(cause, TimeoutError | requests.Timeout | urllib3.exceptions.TimeoutError)
    broken = broken or (None if late or lost else error)
    if broken is not None:
        return errors.AnswerError(f"{where}: its answer is not valid HTTP ({str(broken) or type(broken).__name__})")
    return (errors.UnreachableError if late else errors.ConnectionLostError)(f"{where}: {_plain(error)}")


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Iterate over everything that an exception wraps: requests and urllib3 nest the real one in several ways."""
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
    """Return what went wrong with the connection in a few words."""
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
