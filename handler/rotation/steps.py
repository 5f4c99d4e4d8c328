"""The five steps of a rotation, in fioconfig's order and under its names.

Each takes the state of the rotation, asks the world where it stands, does what is missing, and gives the state back.
Each can be run again after being cut off anywhere; what must survive a cut is journalled before the next thing is done.
"""

import base64
import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import PublicKeyAlgorithmOID

from handler.crypto import certificates, ecies
from handler.crypto import encrypted_values as encrypted_config
from handler.crypto.certificates import NOTHING, CsrAttributes, spki_pem
from handler.device.config_encrypted import LocalConfig
from handler.device.device import Device
from handler.device.keystore import IdentityNames
from handler.errors import CertificateRefusedError, ClockError, PendingError, RequestRefusedError, ServerRefusedError
from handler.journal.journal import Journal, RotationState
from handler.servers.connections import Connections
from handler.servers.est import CSR_REFUSALS
from handler.servers.gateway import CERTIFICATE_REFUSALS

from .fioconfig import Fioconfig

log = logging.getLogger(__name__)

SWITCH = 5
"""The step that holds the one commit point: the replacement of sota.toml."""


@dataclass(frozen=True)
class Step:
    """One step: its number (from 1), its event name, and what it does."""

    number: int
    name: str
    run: Callable[[RotationState], RotationState]


class Steps:
    """The steps over one device, its journal and its connections."""

    def __init__(self, device: Device, journal: Journal, connections: Connections, fioconfig: Fioconfig) -> None:
        self._device = device
        self._journal = journal
        self._connections = connections
        self._fioconfig = fioconfig
        self.switched = False
        """Whether this object has pointed the configuration at a new identity, or changed config.encrypted for it."""
        self.local_config = LocalConfig(device.config_encrypted, journal.aside)
        self.all = (
            Step(1, "Generate new certificate", self._enrol),
            Step(2, "Lock device configuration on server", self._announce),
            Step(3, "Update local configuration with new key", self._prepare_local_config),
            Step(4, "Update device specific configuration on server with new key", self._update_device_config),
            Step(SWITCH, "Finalize aktualizr configuration", self._finalize),
        )

    def without_what_has_ended(self, state: RotationState) -> RotationState:
        """Leave out the new certificate where it has ended meanwhile: the same key gets another. Raises OSError."""
        if state.certificate is not None:
            ended = x509.load_pem_x509_certificate(state.certificate.encode()).not_valid_after_utc
            if ended <= datetime.now(UTC):
                log.warning(
                    "the new certificate ended %s UTC, before it was used: another is asked for",
                    f"{ended:%Y-%m-%d %H:%M}",
                )
                state = replace(state, certificate=None, chain=())
                self._journal.record(state)
        return state

    # Step 1

    def _enrol(self, state: RotationState) -> RotationState:
        _, current = self._device.identity(state.old)
        state, key = self._new_key(state, current)
        if state.certificate is None:
            state = self._issued(state, current, key)
        issued = x509.load_pem_x509_certificate((state.certificate or "").encode())
        now = datetime.now(UTC)
        if now < issued.not_valid_before_utc - certificates.CLOCK_SKEW:  # it was not when it was issued
            raise ClockError(
                f"the clock shows {now:%Y-%m-%d %H:%M} UTC, before the certificate begins that was issued: it was set "
                "back; set it, or wait for network time"
            )
        self._device.store.store_certificate(state.new.certificate, issued)
        self._try(state, current, issued, key)
        return state

    def _new_key(
        self, state: RotationState, current: x509.Certificate
    ) -> tuple[RotationState, ec.EllipticCurvePrivateKey]:
        """Make the new key and its CSR, or find those that this rotation has made already."""
        self._device.check_not_in_use(state.new)
        if state.public_key is not None:
            key = self._device.store.find_key(state.new.key)
            if key is not None and spki_pem(key.public_key()) == state.public_key:
                return state, key
        key = self._device.store.generate(state.new.key, curve_of(current))
        state = replace(state, public_key=spki_pem(key.public_key()), csr=None, certificate=None, announced=False)
        if not state.request.csrattrs:  # else the EST server is asked first
            state = replace(state, csr=_csr(current, key))
        self._journal.record(state)
        return state, key

    def _issued(
        self, state: RotationState, current: x509.Certificate, key: ec.EllipticCurvePrivateKey
    ) -> RotationState:
        with self._connections.est(state.request.est_server, state.old) as est:
            if state.csr is None:
                state = self._record_csr(state, _csr(current, key, est.csrattrs()))
            try:
                answer = est.reenroll(base64.b64decode(state.csr or ""))
            except ServerRefusedError as error:
                wanted = est.csrattrs() if error.status in CSR_REFUSALS and not state.request.csrattrs else NOTHING
                if wanted == NOTHING:
                    raise
                try:
                    state = self._record_csr(state, _csr(current, key, wanted))
                except ServerRefusedError as unable:
                    raise ServerRefusedError(f"{error}; beside that, {unable}", error.status) from error
                answer = est.reenroll(base64.b64decode(state.csr or ""))
        issued = certificates.pick_issued(answer, key.public_key())
        certificates.check_clock(issued, now=datetime.now(UTC), server_time=est.server_time)
        # Its issuer is looked for in the CA file only with /cacerts beside it: a CA may have got a new key.
        certificates.check_issued(issued, current, key.public_key(), issuers=answer, now=datetime.now(UTC), tried=True)
        pem = issued.public_bytes(serialization.Encoding.PEM).decode()
        state = replace(state, certificate=pem, chain=tuple(_pem(each) for each in answer if each != issued))
        self._journal.record(state)
        return state

    def _record_csr(self, state: RotationState, csr: str) -> RotationState:
        """Journal the CSR before it is sent: a retry sends the same one."""
        state = replace(state, csr=csr)
        self._journal.record(state)
        return state

    def _try(
        self, state: RotationState, current: x509.Certificate, issued: x509.Certificate, key: ec.EllipticCurvePrivateKey
    ) -> None:
        """Try the new identity where that commits to nothing: ECIES here, TLS at the EST server. Never at the gateway.

        The same connection brings the CA certificates that the issuer is looked for in.
        """
        if self._device.store.can_derive(state.new.key):
            secret = secrets.token_bytes(16)
            if ecies.decrypt(key, ecies.encrypt(key.public_key(), secret)) != secret:
                raise CertificateRefusedError("the new key does not decrypt what was encrypted to it: it is not used")
        with self._connections.est(state.request.est_server, state.new) as est:
            try:
                authorities = est.cacerts()
            except ServerRefusedError as error:
                begin = issued.not_valid_before_utc
                if begin > datetime.now(UTC):
                    raise PendingError(f"the issued certificate is valid from {begin:%H:%M:%S} UTC", begin) from error
                raise CertificateRefusedError(
                    f"the EST server does not take the certificate it issued: {error}"
                ) from error
            tried = est.certificate_requested is True
            if est.certificate_requested is False:
                log.warning("the EST server did not ask for a client certificate: the new one is not proved by it")
        chain = [x509.load_pem_x509_certificate(text.encode()) for text in state.chain]
        anchors = x509.load_pem_x509_certificates(self._device.config.ca_file.read_bytes())
        issuers = [*chain, *(authorities or []), *anchors]
        now = datetime.now(UTC)
        for warning in certificates.check_issued(
            issued, current, key.public_key(), issuers=issuers, now=now, tried=tried
        ):
            log.warning("%s", warning)

    # Steps 2 to 4

    def _announce(self, state: RotationState) -> RotationState:
        try:
            # From here on nobody can mend the device's files on the server: one that is lost already is refused now.
            encrypted_config.check_readable(self._connections.device_config(state.old), self._key(state.old))
            return self._announced(state)
        except ServerRefusedError as error:
            if not (state.announced and self._is_over(state.old, error)):
                raise
            return _left(state, error)

    def _announced(self, state: RotationState) -> RotationState:
        """Tell the gateway; journalled first, as its answer may be lost. It knows nothing where it said no for good."""
        before = state.announced
        if not before:
            state = replace(state, announced=True)
            self._journal.record(state)
        gateway = self._connections.gateway(state.old)
        try:
            gateway.announce_key(state.public_key or "")
        except ServerRefusedError as error:
            may_be_known = (before or gateway.repeated) and error.status in CERTIFICATE_REFUSALS
            self._journal.record(replace(state, announced=may_be_known))
            raise
        return state

    def _prepare_local_config(self, state: RotationState) -> RotationState:
        state = self._fioconfig.hold(state)
        digest = self.local_config.prepare(self._key(state.old), self._key(state.new))
        return replace(state, config_digest=digest)

    def _update_device_config(self, state: RotationState) -> RotationState:
        try:
            try:
                self.move_device_config(state.old, state.new)
            except ServerRefusedError as error:
                if error.status in CERTIFICATE_REFUSALS:
                    raise
                # A gateway that was restored from a backup knows nothing of the new key any more: it is told again.
                log.info("the new key is announced again: %s", error)
                try:
                    self._connections.gateway(state.old).announce_key(state.public_key or "")
                except ServerRefusedError as other:
                    raise error from other
                self.move_device_config(state.old, state.new)
        except ServerRefusedError as error:
            if not self._is_over(state.old, error):
                raise
            return _left(state, error)
        return state

    def _is_over(self, names: IdentityNames, error: ServerRefusedError) -> bool:
        """Tell whether a refusal says that the certificate of these names is no longer taken: revoked, or ended."""
        if error.status is None:
            return True
        ended = self._device.store.certificate(names.certificate).not_valid_after_utc <= datetime.now(UTC)
        return ended and error.status in CERTIFICATE_REFUSALS

    def device_config(self, names: IdentityNames) -> encrypted_config.ConfigEntries:
        """Give this device's own files on the server, as that identity. Raises ServerRefusedError, PendingError."""
        return self._connections.gateway(names).device_config()

    def move_device_config(self, old: IdentityNames, new: IdentityNames, via: IdentityNames | None = None) -> bool:
        """Have the device's files on the server encrypted to `new`, asking as `via` (`old` where not given).

        Tells whether any had to be: values that decrypt with `new` were moved before a cut, and are not sent again.
        """
        gateway = self._connections.gateway(via or old)
        config = gateway.device_config()
        moved, changed = encrypted_config.reencrypt(config, self._key(old), self._key(new), lenient=True)
        if changed:
            gateway.update_device_config(moved, spki_pem(self._key(new).public_key()))
        return changed

    # Step 5

    def _finalize(self, state: RotationState) -> RotationState:
        if self._device.names_in_use(state.new) != state.new and self.local_config.digest() != state.config_digest:
            # fioconfig has stored a new configuration since step 3 (a rotation that was pending meanwhile).
            state = self._prepare_local_config(state)
            self._journal.record(state)
        self.switch(state)
        return state

    def switch(self, state: RotationState) -> None:
        """Point sota.toml at the new identity, for the first time or again, and make config.encrypted follow.

        Raises RefusedError where the new identity is not whole: then nothing is changed.
        """
        if self._device.names_in_use(state.new) != state.new:
            self._device.identity(state.new)
            try:
                self._device.switch(state.new)
            finally:  # by evidence: a signal may come right after the replacement
                self.switched |= self._device.names_in_use(state.new) == state.new
        self.settle(state)

    def settle(self, state: RotationState) -> None:
        """Make config.encrypted readable with the new key, which is in use. Needs no network."""
        if self.local_config.settle(state.config_digest, lambda: self._key(state.old), lambda: self._key(state.new)):
            self.switched = True

    def settle_back(self, state: RotationState) -> bool:
        """Make config.encrypted readable with the old key, which is in use again; tell whether it had to be changed.

        Needs no network.
        """
        return self.local_config.settle(None, lambda: self._key(state.new), lambda: self._key(state.old))

    def _key(self, names: IdentityNames) -> ec.EllipticCurvePrivateKey:
        return self._device.store_of(names).key(names.key)


def _left(state: RotationState, error: ServerRefusedError) -> RotationState:
    """Go on without the old certificate: the gateway knows which key comes next, and the device's files follow it."""
    reason = f"the gateway takes the old certificate no longer ({error}): left until it has taken the new one"
    log.warning("%s", reason)
    return replace(state, files_left=reason)


def curve_of(certificate: x509.Certificate) -> ec.EllipticCurve:
    """Give the curve of the current key: the new one has the same. Raises RequestRefusedError."""
    public_key = certificates.ec_key_of(certificate)
    if public_key is not None and isinstance(public_key.curve, (ec.SECP256R1, ec.SECP384R1)):
        return public_key.curve
    kind = certificate.public_key_algorithm_oid
    other = "RSA" if kind == PublicKeyAlgorithmOID.RSAES_PKCS1_v1_5 else kind.dotted_string
    found = other if public_key is None else public_key.curve.name
    raise RequestRefusedError(
        f"the current certificate holds a key of another kind ({found}): expected P-256 or P-384; "
        "configuration values of this device cannot be encrypted to it, so it has to be registered anew"
    )


def _csr(current: x509.Certificate, key: ec.EllipticCurvePrivateKey, wanted: CsrAttributes = NOTHING) -> str:
    """Give the CSR as the journal keeps it."""
    return base64.b64encode(certificates.build_csr(current, key, wanted)).decode()


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()
