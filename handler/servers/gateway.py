"""Client of the device gateway: the requests of a rotation, like fioconfig's (JSON over HTTPS)."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from handler.crypto import bounded_json
from handler.crypto.encrypted_values import ConfigEntries, device_files, parse_config
from handler.errors import PageError, RefusedError, ServerRefusedError

from .http import HttpClient
from .response import Answer

GATEWAY = "device gateway"
"""Its name in messages."""
JSON = "application/json"
OK = 200
NO_CONTENT = 204
UNKNOWN_STATUSES = frozenset({404, 405, 501})
CERTIFICATE_REFUSALS = frozenset({None, 401, 403})
"""Statuses by which a gateway refuses a certificate permanently; None is a TLS alert."""
REASON = "Rotating device client certificate"


class GatewayClient:
    """Asks the device gateway. `server` is `tls.server`, `config_url` normally `<server>/config`."""

    def __init__(self, server: str, config_url: str, http: HttpClient) -> None:
        self._server = server
        self._config_url = config_url
        self.http = http

    def announce_key(self, public_key: str) -> None:
        """Announce the next key (SPKI, PEM); until it is in use, the gateway refuses configuration changes.

        Raises ServerRefusedError, PendingError.
        """
        answer = self._send("PATCH", f"{self._server}/device", {"next_pubkey": public_key})
        if answer.status in UNKNOWN_STATUSES:
            raise ServerRefusedError(
                f"{answer.asked}: it does not support key rotation (HTTP {answer.status}): use another "
                "gateway; nothing was switched, the device keeps its certificate",
                answer.status,
            )
        if answer.status != OK:
            raise answer.refusal("the next public key was refused")

    def device_config(self, *, once: bool = False) -> ConfigEntries:
        """Fetch the device's own files; empty if it has none. `once`: do not retry, and take no answer but a gateway's.

        Raises ServerRefusedError, PendingError (PageError if something else answered).
        """
        answer = self._send("GET", f"{self._config_url}-device", once=once)
        if answer.status == NO_CONTENT:
            return {}
        if answer.status != OK:
            raise answer.refusal("this device's files were not returned")
        if once:
            _check_own(answer, empty=b"")
        try:
            return parse_config(answer.body, f"{answer.asked}: its answer")
        except RefusedError as error:
            raise ServerRefusedError(str(error), answer.status) from error

    def update_device_config(self, config: ConfigEntries, public_key: str) -> bool:
        """Replace the device's own files, now for that key (SPKI, PEM); return whether the answer is a gateway's.

        Raises ServerRefusedError, PendingError.
        """
        body = {"reason": REASON, "files": device_files(config), "public-key": public_key}
        answer = self._send("PATCH", self._config_url, body)
        if not OK <= answer.status <= NO_CONTENT:
            raise answer.refusal("this device's files were not accepted")
        return _is_own(answer, empty=b"")  # anything may answer with nothing, and the old key is removed later

    def post_events(self, events: Sequence[Mapping[str, Any]], *, once: bool = False) -> None:
        """Report events, oldest first. `once`: do not retry, and take no answer but a gateway's.

        Raises ServerRefusedError, PendingError (PageError if something else answered).
        """
        answer = self._send("POST", f"{self._server}/events", list(events), once=once)
        if not OK <= answer.status <= NO_CONTENT:
            raise answer.refusal("the events were not accepted")
        if once:
            _check_own(answer)

    def _send(self, method: str, url: str, body: object = None, *, once: bool = False) -> Answer:
        data = None if body is None else json.dumps(body, separators=(",", ":")).encode()
        return self.http.request(method, url, content_type=JSON, body=data, once=once)


def _is_own(answer: Answer, empty: bytes = b"null") -> bool:
    """Return whether an answer of success is empty or JSON, as the gateway's are; something in front may say "OK"."""
    try:
        bounded_json.loads(answer.body.strip() or empty)
    except ValueError as error:  # JSON beyond a limit is JSON
        return not isinstance(error, json.JSONDecodeError | UnicodeDecodeError)
    return True


def _check_own(answer: Answer, empty: bytes = b"null") -> None:
    if not _is_own(answer, empty):
        raise PageError(f"{answer.asked}: its answer ({len(answer.body)} bytes) is not JSON, as a gateway's would be")
