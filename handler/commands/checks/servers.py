"""The checks of the servers: one harmless GET each, with the certificate in use and no other.

Where the key cannot be used, a connection without any certificate tells whether a server is there and trusted.
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
"""Somebody waits for it; a rotation is more patient."""


class Witness(HttpClient):
    """An HTTP client that remembers the last answer, and what it refused to do."""

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
        """Ask the gateway for the device's own files, unless the certificate in use may be new to it."""
        configured, names = self._device.configured, self._device.names
        missing = self._missing()
        server, config_url = configured.server, configured.config_url
        if missing or server is None or config_url is None:
            yield skipped("gateway", f"not asked: {missing or 'tls.server is not set'}")
            return
        try:
            server, config_url = https_url(server), https_url(config_url)
        except ValueError as error:
            yield problem("gateway", f"not asked: tls.server or CONFIG_URL is no address: {error}")
            return
        no_key = self._no_key()
        if no_key or names is None:
            yield self._without_certificate("gateway", GATEWAY, server, no_key)
            return
        http = self._http(GATEWAY, names)
        try:
            # The client holds key and certificate by now: what it presents is what is looked up here.
            unseen = self._why_unseen(names)
            if unseen is not None:
                yield skipped("gateway", f"not asked: {unseen}")
                return
            files = GatewayClient(server, config_url, http).device_config()
            yield ok(
                "gateway",
                f"{server} is trusted, and accepts certificate {names.certificate}; files of this device: {len(files)}",
            )
            yield from _clock_finding(http.answer)
            key, store = self._device.usable_key, self._device.store
            # In the middle of a rotation they may be for the other key, and are seen to by that.
            settled = self._device.view.rotation is None
            if key is not None and store is not None and settled and has_encrypted_values(files):
                if not store.can_derive(names.key):
                    yield problem("gateway", "files of this device are encrypted there, and this token cannot derive")
                else:
                    check_readable(files, key)
        except ServerRefusedError as error:
            yield problem("gateway", f"{error}; look whether tls.server and the certificate are this factory's")
        except UntrustedError as error:
            yield problem("gateway", str(error))
        except PendingError as error:
            yield problem("gateway", f"{error}; look at that server, at tls.server and at what stands in between")
        finally:
            http.close()

    def est(self) -> Iterator[Result]:
        """Ask the EST server for its CA certificates."""
        url, names = self._asked.est_server, self._device.names
        if url is None:
            yield skipped("EST", "not asked: nothing says where to enrol; give --est-server URL")
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
                yield skipped("EST", f"not asked, because it is the gateway too: {unseen}")
                return
            found = EstClient(url, http).cacerts()
            yield ok("EST", f"{url} is reachable; its name and its chain are trusted by the CA file")
            if found is None:
                yield _without_authorities(http)
            else:
                yield ok("EST", f"/cacerts: {len(found)} CA certificates")
                yield from self._unknown_roots(found)
            if http.certificate_requested is False:
                yield warning("EST", "it asks for no client certificate: it cannot know this device by it")
        except ServerRefusedError as error:
            yield problem("EST", f"{error}; look whether it trusts the CA of this device's certificate")
        except UntrustedError as error:
            yield problem("EST", str(error))
        except PendingError as error:
            yield problem("EST", f"{error}; look at that server, at ESTSERVER and at what stands in between")
        finally:
            http.close()

    def _unknown_roots(self, found: Sequence[Certificate]) -> Iterator[Result]:
        """Tell of roots that the device does not trust. A root alone may be that of the devices' own certificates."""
        roots, unknown = roots_among(found, self._device.configured.anchors()[0])
        for root in unknown:
            said = f"/cacerts has the root {shown(root.subject)}, which this device does not trust"
            if len(roots) == 1:
                yield ok("EST", f"{said}, as is usual for the root of devices' certificates")
            else:
                yield warning("EST", f"{said}: before servers change to it, put it into import.tls_cacert_path")

    def _missing(self) -> str | None:
        """Say what is missing for a connection of any kind."""
        device = self._device
        return device.no_trust if device.configured.ca_file else "import.tls_cacert_path is not known"

    def _no_key(self) -> str | None:
        """Say why the certificate in use cannot be shown to a server."""
        device = self._device
        if device.identity.fits is False:
            return "key and certificate in use do not belong together"
        return device.no_store if device.names is None or device.usable_key is None else None

    def _without_certificate(self, topic: str, name: str, url: str, why: str | None) -> Result:
        """Look whether a server is there, and its chain trusted. Raises RenewalError, OSError."""
        ca_file = self._device.configured.ca_file or Path()
        http = Witness(ca_file, lambda _: None, Deadline(LIMITS.total), LIMITS, name=name)
        try:
            # That nobody is served without a certificate is said after the server has shown its own.
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
        """Say why the gateway must not see the certificate of these names, by what is on disk at this moment."""
        now = Configuration(self._settings.search_paths, self._settings.storage, self._settings.config_url)
        if now.names != names:
            return "the configuration has changed meanwhile, a rotation may be running: try again"
        # The journal of a rotation lies in storage.path, wherever options point.
        reasons = (Snapshot.of(folder).why_unseen(names) for folder in now.storages)
        return next((reason for reason in reasons if reason), None)


def _without_authorities(http: Witness) -> Result:
    """Say what an EST server's answer without CA certificates means for a rotation."""
    if http.refusal is not None:  # the enrolment would be refused like this too
        return problem("EST", f"/cacerts: {http.refusal}")
    if http.answer is None:
        return warning("EST", "/cacerts is not answered: look at that server")
    said = f"/cacerts answers HTTP {http.answer.status} without CA certificates"
    if http.answer.status == NOT_FOUND:  # every EST server has it (RFC 7030 §4.1)
        return problem("EST", f"{said}: the address is not an EST server's; mostly it ends with /.well-known/est")
    return warning("EST", f"{said}: is the address right?")


def _clock_finding(answer: Answer | None) -> Iterator[Result]:
    if answer is None or answer.date is None:
        return
    off = datetime.now(UTC) - answer.date
    if abs(off) > CLOCK_SKEW:
        direction = "ahead of" if off.total_seconds() > 0 else "behind"
        yield warning("clock", f"{lasting(abs(off))} {direction} the device gateway's: set it")
    else:
        yield ok("clock", f"agrees with the gateway's to {abs(off).total_seconds():.0f} s")


def _origin(url: str) -> tuple[str | None, int] | None:
    """Give host and port; None where the address is none."""
    try:
        parts = urlsplit(https_url(url))
    except ValueError:
        return None
    return parts.hostname, parts.port or 443
