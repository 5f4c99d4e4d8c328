"""The checks of the servers: one harmless GET each, with the certificate in use and no other.

If the key cannot be used, a connection without a client certificate shows whether a server is reachable and trusted.
"""

import contextlib
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from handler.console.settings import Settings
from handler.console.table import lasting
from handler.crypto.certificates import CLOCK_SKEW
from handler.crypto.encrypted_values import check_readable, has_encrypted_values
from handler.crypto.names import shown
from handler.device.configuration.configuration import Configuration
from handler.device.keystore import IdentityNames
from handler.device.url import https_url
from handler.errors import PendingError, ServerBusyError, ServerRefusedError, UntrustedError
from handler.inspection.anchors import roots_among
from handler.inspection.effective_request import EffectiveRequest
from handler.journal.snapshot import Snapshot
from handler.servers.est import EST_SERVER, EstClient
from handler.servers.gateway import GATEWAY, GatewayClient
from handler.servers.http import HttpClient, Limits
from handler.servers.response import Answer
from handler.servers.transport import Deadline
from hsm.certificate import Certificate

from .device import DeviceChecks
from .result import Result, ok, problem, skipped, warning

NOT_FOUND = 404
LIMITS = Limits(total=20.0, connect=5.0, read=10.0, retry_delays=())
"""A person waits for the result, so these limits are shorter than a rotation's."""


class Witness(HttpClient):
    """An HTTP client that remembers the last answer and the last refusal."""

    answer: Answer | None = None
    refusal: ServerRefusedError | None = None

    def request(self, method: str, url: str, **options: Any) -> Answer:  # noqa: ANN401
        """Send one request, as HttpClient does."""
        try:
            self.answer = super().request(method, url, **options)
        except ServerRefusedError as error:
            self.refusal = error
            raise
        return self.answer


class ServerChecks:
    """The checks of the gateway and of the EST server, after those of the device."""

    def __init__(self, settings: Settings, device: DeviceChecks, asked: EffectiveRequest) -> None:
        self._settings = settings
        self._device = device
        self._asked = asked

    def gateway(self) -> Iterator[Result]:
        """Ask the device gateway for the device's own files, unless it may not have seen the certificate in use yet."""
        configured, names = self._device.configured, self._device.names
        missing = self._missing()
        server, config_url = configured.server, configured.config_url
        if missing or server is None or config_url is None:
            yield skipped("gateway", f"not asked: {missing or 'tls.server is not set'}")
            return
        try:
            server, config_url = https_url(server), https_url(config_url)
        except ValueError as error:
            yield problem("gateway", f"not asked: tls.server or CONFIG_URL is not a URL: {error}")
            return
        no_key = self._no_key()
        if no_key or names is None:
            yield self._without_certificate("gateway", GATEWAY, server, no_key)
            return
        http = self._http(GATEWAY, names)
        try:
            # The client has loaded key and certificate, so this check is about the certificate that it presents.
            unseen = self._why_unseen(names)
            if unseen is not None:
                yield skipped("gateway", f"not asked: {unseen}")
                return
            files = GatewayClient(server, config_url, http).device_config()
            yield ok(
                "gateway",
                f"{server} is trusted and accepts certificate {names.certificate}; files of this device: {len(files)}",
            )
            yield from _clock_finding(http.answer)
            key, store = self._device.usable_key, self._device.store
            # During a rotation they may be encrypted to the other key; the rotation takes care of them.
            settled = self._device.view.rotation is None
            if key is not None and store is not None and settled and has_encrypted_values(files):
                if not store.can_derive(names.key):
                    yield problem(
                        "gateway", "the files of this device are encrypted, and this token cannot derive keys (ECDH)"
                    )
                else:
                    check_readable(files, key)
        except ServerRefusedError as error:
            yield problem("gateway", f"{error}; check that tls.server and the certificate belong to this factory")
        except UntrustedError as error:
            yield problem("gateway", str(error))
        except PendingError as error:
            yield problem("gateway", f"{error}; check that server, tls.server and the network between")
        finally:
            http.close()

    def est(self) -> Iterator[Result]:
        """Ask the EST server for its CA certificates."""
        url, names = self._asked.est_server, self._device.names
        if url is None:
            yield skipped("EST", "not asked: no EST server is configured; try one with --est-server URL")
            return
        missing = self._missing()
        if missing:
            yield skipped("EST", f"not asked: {missing}")
            return
        no_key = self._no_key()
        if no_key or names is None:
            yield self._without_certificate("EST", EST_SERVER, url, no_key)
            return
        http = self._http(EST_SERVER, names)
        try:
            unseen = self._why_unseen(names) if _origin(url) == _origin(self._device.configured.server or "") else None
            if unseen is not None:
                yield skipped("EST", f"not asked, because it is also the device gateway: {unseen}")
                return
            found = EstClient(url, http).cacerts()
            yield ok("EST", f"{url} is reachable and trusted")
            if found is None:
                yield _without_authorities(http)
            else:
                yield ok("EST", f"/cacerts has CA certificates: {len(found)}")
                yield from self._unknown_roots(found)
            if http.certificate_requested is False:
                yield warning("EST", "it does not ask for a client certificate, so it cannot authenticate this device")
        except ServerRefusedError as error:
            yield problem("EST", f"{error}; check that it trusts the CA of this device's certificate")
        except UntrustedError as error:
            yield problem("EST", str(error))
        except PendingError as error:
            yield problem("EST", f"{error}; check that server, ESTSERVER and the network between")
        finally:
            http.close()

    def _unknown_roots(self, found: Sequence[Certificate]) -> Iterator[Result]:
        """Report roots that the device does not trust. A single root may be that of the devices' own certificates."""
        roots, unknown = roots_among(found, self._device.configured.anchors()[0])
        for root in unknown:
            said = f"/cacerts has the root {shown(root.subject)}, which this device does not trust"
            if len(roots) == 1:
                yield ok("EST", f"{said}; that is normal for the root of device certificates")
            else:
                yield warning("EST", f"{said}: add it to import.tls_cacert_path before servers use it")

    def _missing(self) -> str | None:
        """Say what is missing for any connection."""
        device = self._device
        return device.no_trust if device.configured.ca_file else "import.tls_cacert_path is not known"

    def _no_key(self) -> str | None:
        """Say why the certificate in use cannot be shown to a server."""
        device = self._device
        if device.identity.fits is False:
            return "key and certificate in use do not belong together"
        return device.no_store if device.names is None or device.usable_key is None else None

    def _without_certificate(self, topic: str, name: str, url: str, why: str | None) -> Result:
        """Check that a server is reachable and trusted. Raises RenewalError, OSError."""
        ca_file = self._device.configured.ca_file or Path()
        http = Witness(ca_file, lambda _: None, Deadline(LIMITS.total), LIMITS, name=name)
        try:
            # A server rejects this client after it has shown its own certificate, which is what counts here.
            with contextlib.suppress(ServerRefusedError, ServerBusyError):
                http.request("GET", url, content_type="text/plain")
        finally:
            http.close()
        return skipped(topic, f"{url} is reachable and trusted; not tried with the certificate: {why}")

    def _http(self, name: str, names: IdentityNames) -> Witness:
        """Open a client of one server. Raises RenewalError, TokenError, OSError, ValueError."""
        store = self._device.store
        assert store is not None  # noqa: S101 - there is a key
        ca_file = self._device.configured.ca_file or Path()
        authenticate = partial(store.authenticate, names=names)
        return Witness(ca_file, authenticate, Deadline(LIMITS.total), LIMITS, name=name)

    def _why_unseen(self, names: IdentityNames) -> str | None:
        """Say why the gateway must not see the certificate of these names, by what is on disk right now."""
        now = Configuration(self._settings.search_paths, self._settings.storage, self._settings.config_url)
        if now.names != names:
            return "the configuration has just changed, a rotation may be running: try again"
        # The journal of a rotation is in storage.path, even if options name another folder.
        reasons = (Snapshot.of(folder).why_unseen(names) for folder in now.storages)
        return next((reason for reason in reasons if reason), None)


def _without_authorities(http: Witness) -> Result:
    """Judge an EST server's answer that has no CA certificates."""
    if http.refusal is not None:  # the enrolment would be refused in the same way
        return problem("EST", f"/cacerts: {http.refusal}")
    if http.answer is None:
        return warning("EST", "/cacerts: no answer; check that server")
    said = f"/cacerts answers HTTP {http.answer.status} without CA certificates"
    if http.answer.status == NOT_FOUND:  # every EST server has it (RFC 7030 §4.1)
        return problem("EST", f"{said}: this is not the URL of an EST server; it usually ends with /.well-known/est")
    return warning("EST", f"{said}: check the URL")


def _clock_finding(answer: Answer | None) -> Iterator[Result]:
    if answer is None or answer.date is None:
        return
    off = datetime.now(UTC) - answer.date
    if abs(off) > CLOCK_SKEW:
        direction = "ahead of" if off.total_seconds() > 0 else "behind"
        yield warning("clock", f"{lasting(abs(off))} {direction} the device gateway's: set the clock")
    else:
        yield ok("clock", f"within {abs(off).total_seconds():.0f} s of the device gateway's")


def _origin(url: str) -> tuple[str | None, int] | None:
    """Return host and port; None if `url` is invalid."""
    try:
        parts = urlsplit(https_url(url))
    except ValueError:
        return None
    return parts.hostname, parts.port or 443
