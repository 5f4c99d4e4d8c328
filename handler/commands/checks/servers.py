"""The checks of the servers: one harmless GET each, with the certificate in use and no other.

If the key cannot be used, a connection without a client certificate shows whether a server is reachable and trusted.
"""

import contextlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from handler.console.settings import Settings
from handler.console.table import lasting
from handler.crypto.certificates import CLOCK_SKEW
from handler.crypto.encrypted_values import check_readable, has_encrypted_values
from handler.crypto.names import shown
from handler.device.configuration.configuration import Configuration
from handler.device.url import https_url
from handler.errors import PendingError, ServerBusyError, ServerRefusedError, UntrustedError
from handler.inspection.effective_request import EffectiveRequest
from handler.journal.snapshot import Snapshot
from handler.servers.est import EST_SERVER, EstClient
from handler.servers.gateway import GATEWAY, GatewayClient
from handler.servers.http import HttpClient, Limits
from handler.servers.response import Answer
from handler.servers.transport import Deadline

from .device import DeviceChecks
from .result import OK, PROBLEM, SKIPPED, WARNING, Found

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
    """The checks of the gateway and of the EST server, after those of the device. They raise RenewalError, OSError."""

    def __init__(self, settings: Settings, device: DeviceChecks, asked: EffectiveRequest) -> None:
        self._settings = settings
        self._device = device
        self._est_server = asked.est_server
        self._gateway_time: datetime | None = None

    def gateway(self) -> Iterator[Found]:
        """Ask the device gateway for the device's own files, unless it may not have seen the certificate in use yet."""
        server, config_url = self._device.configured.server, self._device.configured.config_url
        if server is None or config_url is None:
            yield SKIPPED, f"not asked: {self._device.no_trust or 'tls.server is not set'}"
            return
        try:
            server, config_url = https_url(server), https_url(config_url)
        except ValueError as error:
            yield PROBLEM, f"not asked: tls.server or CONFIG_URL is not a URL: {error}"
            return
        advice = "check that tls.server and the certificate belong to this factory"
        yield from self._ask(GATEWAY, server, partial(self._files, server, config_url), advice, "tls.server")

    def _files(self, server: str, config_url: str, http: Witness) -> Iterator[Found]:
        """Check that the key in use reads the device's own files."""
        device = self._device
        if unseen := self._why_unseen():
            yield SKIPPED, f"not asked: {unseen}"
            return
        files, names = GatewayClient(server, config_url, http).device_config(), device.names
        accepts = f"accepts certificate {names.certificate if names else ''}"
        yield OK, f"{server} is trusted and {accepts}; files of this device: {len(files)}"
        self._gateway_time = http.answer.date if http.answer else None
        # During a rotation they may be encrypted to the other key; the rotation takes care of them.
        if device.view.rotation is not None or not has_encrypted_values(files):
            return
        if device.store and names and not device.store.can_derive(names.key):
            yield PROBLEM, "the files of this device are encrypted, and this token cannot derive keys (ECDH)"
        elif device.usable_key:
            check_readable(files, device.usable_key)

    def clock(self) -> Iterator[Found]:
        """Compare the clock with the device gateway's, if it has answered."""
        if self._gateway_time is None:
            return
        off = datetime.now(UTC) - self._gateway_time
        if abs(off) > CLOCK_SKEW:
            direction = "ahead of" if off.total_seconds() > 0 else "behind"
            yield WARNING, f"{lasting(abs(off))} {direction} the device gateway's: set the clock"
        else:
            yield OK, f"within {abs(off).total_seconds():.0f} s of the device gateway's"

    def est(self) -> Iterator[Found]:
        """Ask the EST server for its CA certificates."""
        url = self._est_server
        if url is None:
            yield SKIPPED, "not asked: no EST server is configured; try one with --est-server URL"
        else:
            advice = "check that it trusts the CA of this device's certificate"
            yield from self._ask(EST_SERVER, url, partial(self._authorities, url), advice, "ESTSERVER")

    def _authorities(self, url: str, http: Witness) -> Iterator[Found]:
        """Check /cacerts, and whether the device trusts its roots; a single one may be that of device certificates."""
        if _origin(url) == _origin(self._device.configured.server or "") and (unseen := self._why_unseen()):
            yield SKIPPED, f"not asked, because it is also the device gateway: {unseen}"
            return
        found = EstClient(url, http).cacerts()
        yield OK, f"{url} is reachable and trusted"
        if found is None:
            yield _without_authorities(http)
        else:
            yield OK, f"/cacerts has CA certificates: {len(found)}"
            known = {(each.subject, each.spki) for each in self._device.configured.anchors()[0]}
            roots = [each for each in found if each.subject == each.issuer]
            for root in (each for each in roots if (each.subject, each.spki) not in known):
                said = f"/cacerts has the root {shown(root.subject)}, which this device does not trust"
                if len(roots) == 1:
                    yield OK, f"{said}; that is normal for the root of device certificates"
                else:
                    yield WARNING, f"{said}: add it to import.tls_cacert_path before servers use it"
        if http.certificate_requested is False:
            yield WARNING, "it does not ask for a client certificate, so it cannot authenticate this device"

    def _ask(
        self, name: str, url: str, look: Callable[[Witness], Iterator[Found]], advice: str, key: str
    ) -> Iterator[Found]:
        """Let `look` use a client with the certificate in use; without one, only connect.

        `advice` is for a refusal; `key` names the setting with the server's address.
        """
        device, ca_file = self._device, self._device.configured.ca_file
        if device.no_trust or ca_file is None:
            yield SKIPPED, f"not asked: {device.no_trust}"
            return
        authenticate = None
        if device.store and device.names and device.usable_key and device.identity.fits is not False:
            authenticate = partial(device.store.authenticate, names=device.names)
        http = Witness(ca_file, authenticate or (lambda _: None), Deadline(LIMITS.total), LIMITS, name=name)
        try:
            if authenticate:
                yield from look(http)
                return
            # A server rejects this client after it has shown its own certificate, which is what counts here.
            with contextlib.suppress(ServerRefusedError, ServerBusyError):
                http.request("GET", url, content_type="text/plain")
            apart = "key and certificate in use do not belong together"
            why = apart if device.identity.fits is False else device.no_store
            yield SKIPPED, f"{url} is reachable and trusted; not tried with the certificate: {why}"
        except ServerRefusedError as error:
            yield PROBLEM, f"{error}; {advice}"
        except UntrustedError as error:
            yield PROBLEM, str(error)
        except PendingError as error:
            yield PROBLEM, f"{error}; check that server, {key} and the network between"
        finally:
            http.close()

    def _why_unseen(self) -> str | None:
        """Say why the gateway must not see the certificate that was loaded, by what is on disk right now."""
        now = Configuration(self._settings.search_paths, self._settings.storage, self._settings.config_url)
        names = self._device.names
        if names is None or now.names != names:
            return "the configuration has just changed, a rotation may be running: try again"
        # The journal of a rotation is in storage.path, even if options name another folder.
        reasons = (Snapshot.of(folder).why_unseen(names) for folder in now.storages)
        return next((reason for reason in reasons if reason), None)


def _without_authorities(http: Witness) -> Found:
    """Judge an EST server's answer that has no CA certificates."""
    if http.refusal is not None:  # the enrolment would be refused in the same way
        return PROBLEM, f"/cacerts: {http.refusal}"
    if http.answer is None:
        return WARNING, "/cacerts: no answer; check that server"
    said = f"/cacerts answers HTTP {http.answer.status} without CA certificates"
    if http.answer.status == NOT_FOUND:  # every EST server has it (RFC 7030 §4.1)
        return PROBLEM, f"{said}: this is not the URL of an EST server; it usually ends with /.well-known/est"
    return WARNING, f"{said}: check the URL"


def _origin(url: str) -> tuple[str | None, int] | None:
    """Return host and port; None if `url` is invalid."""
    try:
        parts = urlsplit(https_url(url))
    except ValueError:
        return None
    return parts.hostname, parts.port or 443
