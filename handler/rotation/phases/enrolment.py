"""Step 1: the new key, its certificate from the EST server, and the trial of both."""

import base64
import logging
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from cryptography.hazmat.primitives.asymmetric import ec

from handler.crypto import certificates, ecies
from handler.crypto.bag import certificates_in_pem
from handler.crypto.csr import NOTHING, CsrAttributes, build_csr, spki_pem
from handler.device.keystore import refusal_by_openssl
from handler.device.storage import read_regular
from handler.errors import (
    AnswerError,
    CertificateRefusedError,
    ClockError,
    PendingError,
    PostponedError,
    RequestRefusedError,
    ServerRefusedError,
)
from handler.journal.rotation_state import RotationState
from handler.rotation.context import Context
from handler.servers.est import CSR_REFUSALS, EstClient
from hsm.certificate import Certificate
from hsm.errors import UnsupportedError

log = logging.getLogger(__name__)

AFTER_UNREADABLE = timedelta(minutes=5)
MAX_UNREADABLE = 3
"""Unreadable answers to one CSR, after which it is refused."""


def enrol(context: Context) -> RotationState:
    """Make the key, enrol it, store and try the certificate; skip what is already done (step 1)."""
    _, current = context.device.identity(context.rotation.old)
    if has_ended(context.rotation):
        ended = _issued(context.rotation).shown_end
        log.warning("the new certificate expired %s, before it was used: requesting another one", ended)
        context.record(replace(context.rotation, certificate=None, chain=()))
    key = _new_key(context, current)
    if context.rotation.certificate is None:
        _request(context, current, key)
    state, issued, now = context.rotation, _issued(context.rotation), datetime.now(UTC)
    if issued.begins_after(now + certificates.CLOCK_SKEW):  # the clock was set back since
        raise ClockError(
            f"the clock shows {now:%Y-%m-%d %H:%M} UTC, but the issued certificate is valid from {issued.shown_begin}: "
            "set the clock, or wait for network time"
        )
    context.device.store.store_certificate(state.new.certificate, issued)
    _try(context, current, issued, key)
    return state


def has_ended(state: RotationState) -> bool:
    """Tell whether the new certificate has expired, or is about to, before its use: the same key gets another."""
    return state.certificate is not None and _issued(state).has_ended(datetime.now(UTC) + certificates.LEAST_LIFE)


def _issued(state: RotationState) -> Certificate:
    return Certificate.of_pem((state.certificate or "").encode())


def _new_key(context: Context, current: Certificate) -> ec.EllipticCurvePrivateKey:
    """Make the new key and its CSR, or find those that this rotation has already made."""
    state, store = context.rotation, context.device.store
    context.device.check_not_in_use(state.new)
    if state.public_key is not None:
        key = store.find_key(state.new.key)
        if key is not None and spki_pem(key.public_key()) == state.public_key:
            return key
    key = store.generate(state.new.key, curve_of(current))
    csr = None if state.request.csrattrs else _csr(current, key)  # None: after asking the EST server
    public_key = spki_pem(key.public_key())
    context.record(replace(state, public_key=public_key, csr=csr, certificate=None, announced=False))
    return key


def _request(context: Context, current: Certificate, key: ec.EllipticCurvePrivateKey) -> None:
    """Get the certificate. Each CSR is journalled before it is sent: a retry sends the same one."""
    state = context.rotation
    with context.connections.est(state.request.est_server, state.old) as est:
        if state.csr is None:
            state = context.record(replace(state, csr=_csr(current, key, est.csrattrs())))
        try:
            answer = _reenroll(context, est)
        except ServerRefusedError as error:
            wanted = est.csrattrs() if error.status in CSR_REFUSALS and not state.request.csrattrs else NOTHING
            if wanted == NOTHING:
                raise
            try:
                state = context.record(replace(state, csr=_csr(current, key, wanted)))
            except ServerRefusedError as unable:
                raise ServerRefusedError(f"{error}; also, {unable}", error.status) from error
            answer = _reenroll(context, est)
    issued = _picked(answer, current, key.public_key(), est.server_time)
    chain = tuple(each.pem for each in answer if each != issued)
    context.record(replace(state, certificate=issued.pem, chain=chain))


def _picked(
    answer: list[Certificate], current: Certificate, public_key: ec.EllipticCurvePublicKey, server_time: datetime | None
) -> Certificate:
    """Return the best certificate for the key that passes the checks. Raises what the best one fails with."""
    now = datetime.now(UTC)
    refused: list[CertificateRefusedError] = []
    for issued in certificates.issued_for(public_key, answer, now, server_time or now):
        try:
            certificates.check_clock(issued, now=now, server_time=server_time)
            if problem := refusal_by_openssl(issued):
                raise CertificateRefusedError(
                    f"the issued certificate cannot be used: {problem}; have the EST server's CA issue it as RFC 5280 "
                    "requires, signed with SHA-256 or better"
                )
            # The CA file is searched for the issuer later, together with /cacerts: a CA may have a new key.
            certificates.check_issued(issued, current, public_key, issuers=answer, now=now, tried=True)
        except CertificateRefusedError as error:
            refused.append(error)
        else:
            return issued
    raise refused[0]


def _reenroll(context: Context, est: EstClient) -> list[Certificate]:
    """Send the CSR. An unreadable answer has cost a certificate, so the next try waits."""
    state = context.rotation
    try:
        return est.reenroll(base64.b64decode(state.csr or ""))
    except AnswerError as error:
        count = state.unreadable + 1
        if count >= MAX_UNREADABLE:
            raise CertificateRefusedError(
                f"{count} answers of the EST server were unreadable, the last one: {error}; check that server"
            ) from error
        context.record(replace(state, unreadable=count))
        raise PostponedError(
            f"{error}; sending the same CSR again in {AFTER_UNREADABLE.seconds // 60} minutes",
            datetime.now(UTC) + AFTER_UNREADABLE,
        ) from error


def _try(context: Context, current: Certificate, issued: Certificate, key: ec.EllipticCurvePrivateKey) -> None:
    """Try the new identity without committing to it: ECIES here, TLS at the EST server, never at the gateway.

    The same connection fetches the CA certificates, which may contain the issuer.
    """
    state = context.rotation
    try:
        if not ecies.is_usable(key):
            raise CertificateRefusedError("the new key cannot decrypt what was encrypted to it: not using it")
    except UnsupportedError as error:
        log.info("%s", error)
    try:
        with context.connections.est(state.request.est_server, state.new) as est:
            authorities = est.cacerts()
        if est.refusal is not None:  # of the certificate, unless the old one is refused alike
            with context.connections.est(state.request.est_server, state.old) as other:
                other.cacerts()
            if other.refusal is None or other.refusal.status != est.refusal.status:
                raise est.refusal
    except ServerRefusedError as why:
        begin = issued.begin
        if begin is not None and begin > datetime.now(UTC):
            raise PendingError(f"the issued certificate is valid from {begin:%H:%M:%S} UTC", begin) from why
        raise CertificateRefusedError(f"the EST server does not accept the certificate that it issued: {why}") from why
    tried = est.http.certificate_requested is True
    if est.http.certificate_requested is False:
        log.warning("the EST server did not ask for a client certificate, so it could not test the new one")
    chain = [Certificate.of_pem(text.encode()) for text in state.chain]
    anchors, notes = certificates_in_pem(read_regular(context.device.ca_file, follow=True))
    for note in notes:
        log.warning("%s: %s", context.device.ca_file, note)
    issuers = [*chain, *(authorities or []), *anchors]
    now = datetime.now(UTC)
    for warning in certificates.check_issued(issued, current, key.public_key(), issuers=issuers, now=now, tried=tried):
        log.warning("%s", warning)


def curve_of(certificate: Certificate) -> ec.EllipticCurve:
    """Return the curve of the current key, which the new one shares. Raises RequestRefusedError."""
    public_key = certificate.ec_key()
    if public_key is not None and isinstance(public_key.curve, (ec.SECP256R1, ec.SECP384R1)):
        return public_key.curve
    found = certificate.kind_of_key if public_key is None else public_key.curve.name
    raise RequestRefusedError(
        f"the current certificate holds a key of another kind ({found}): expected P-256 or P-384, because "
        "configuration values cannot be encrypted to it; register the device again"
    )


def _csr(current: Certificate, key: ec.EllipticCurvePrivateKey, wanted: CsrAttributes = NOTHING) -> str:
    """Return the CSR as the journal stores it: base64 of DER."""
    return base64.b64encode(build_csr(current, key, wanted)).decode()
