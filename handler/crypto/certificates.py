"""The checks of an issued certificate. Pure: no file, no network.

An issued certificate is refused if it … (no other field is read)

| | because |
| --- | --- |
| is larger than 16 KB, or has a time that cannot be calculated with | it is no client certificate |
| holds another public key | the device cannot use it |
| has another Subject (by value, see names.py), or lacks a subjectAltName of the current one | it names another device |
| lacks digitalSignature or clientAuth | gateways refuse it; further usages are fine |
| is a CA certificate | it is no client certificate |
| has expired, ends within the hour, or begins more than five minutes from now | servers soon refuse it |
| has a wrong signature, judged by a known certificate of its issuer's name | it is forged |
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from cryptography.hazmat.primitives.asymmetric import ec

from handler.errors import CertificateRefusedError, ClockError
from hsm import der
from hsm.certificate import Certificate, Extension

from . import names
from .csr import ALTERNATIVE_NAME, BASIC_CONSTRAINTS, CLIENT_AUTH, EXTENDED_KEY_USAGE, KEY_USAGE
from .signatures import is_signed_by

CLOCK_SKEW = timedelta(minutes=5)
LEAST_LIFE = timedelta(hours=1)
MAX_SIZE = 16 * 1024
"""Bytes of a client certificate."""
MAX_CA_SIZE = 64 * 1024
"""Bytes of a CA certificate; larger ones are ignored."""
MAX_OF_ONE_KEY, MAX_ISSUERS = 10, 20
"""Certificates for the new key that are looked at; those of its issuer's name whose key is tried."""
_MOST_LISTED = 10
_PROFILE = "correct the EST server's profile for devices"
_CLOCKS = "check the clocks of this device and of the EST server"
_FIELDS = {
    KEY_USAGE: "keyUsage",
    ALTERNATIVE_NAME: "subjectAltName",
    BASIC_CONSTRAINTS: "basicConstraints",
    EXTENDED_KEY_USAGE: "extendedKeyUsage",
}


def issued_for(
    public_key: ec.EllipticCurvePublicKey, candidates: Sequence[Certificate], *times: datetime
) -> list[Certificate]:
    """Return the certificates for that public key, first the latest of those that are valid at these times.

    The times are by our clock, then the server's: the first decides, if it can. Raises CertificateRefusedError if none
    is for the key.
    """
    ours = [each for each in candidates if each.holds(public_key)]
    if not ours:
        raise CertificateRefusedError(
            f"none of the {len(candidates)} certificates that the EST server sent is for the new key: {_PROFILE}"
        )
    never = datetime.min.replace(tzinfo=UTC)
    best = sorted(ours, key=lambda each: (*(_usable(each, time) for time in times), each.begin or never), reverse=True)
    return best[:MAX_OF_ONE_KEY]


def _usable(certificate: Certificate, now: datetime) -> int:
    """Return how well a certificate can be used at that time: 2 now, 1 in a few minutes, 0 not."""
    begin, end = certificate.begin, certificate.end
    if len(certificate.der) > MAX_SIZE or begin is None or end is None or now >= end - LEAST_LIFE:
        return 0
    return 2 if begin <= now else int(begin - CLOCK_SKEW <= now)


def check_issued(
    issued: Certificate,
    current: Certificate,
    public_key: ec.EllipticCurvePublicKey,
    *,
    issuers: Sequence[Certificate],
    now: datetime,
    tried: bool = False,
) -> list[str]:
    """Check the certificate issued for `public_key` to replace `current`; return warnings.

    `issuers`: all known certificates that may be its issuer's; `now` is aware. `tried`: the EST server has taken it in
    a TLS handshake, so an unknown issuer needs no warning. Raises CertificateRefusedError, and ClockError if the clock
    of the device is wrong.
    """
    if len(issued.der) > MAX_SIZE:
        raise CertificateRefusedError(
            f"the issued certificate has {len(issued.der)} bytes: expected at most {MAX_SIZE}; {_PROFILE}"
        )
    if not issued.holds(public_key):
        raise CertificateRefusedError(f"the issued certificate is for another key than the one in the CSR: {_PROFILE}")
    warnings = [*_check_names(issued, current), *_check_validity(issued, current, now)]
    _check_usages(issued)
    unknown_issuer = _check_issuer(issued, issuers)
    return warnings if tried else [*warnings, *unknown_issuer]


def check_clock(issued: Certificate, *, now: datetime, server_time: datetime | None) -> None:
    """Raise ClockError if the certificate is valid by the server's clock, but not by ours."""
    if server_time is None or issued.begin is None or issued.end is None:
        return
    begin, end = issued.begin - CLOCK_SKEW, issued.end
    if begin <= server_time < end and not begin <= now < end:
        raise ClockError(
            f"the clock of this device is wrong: it says {_clock(now)}, the EST server says {_clock(server_time)}; "
            "set it, or wait for network time"
        )


def _check_names(issued: Certificate, current: Certificate) -> list[str]:
    if not names.same(issued.subject, current.subject):
        raise CertificateRefusedError(
            f"the issued certificate has the Subject {names.shown(issued.subject)!r}: expected "
            f"{names.shown(current.subject)!r}, as in the current certificate; {_PROFILE}"
        )
    warnings = []
    if issued.subject != current.subject:
        warnings.append(
            "the issued certificate has the same Subject in another encoding: the next renewal repeats the new one"
        )
    before, after = (_extension(each, ALTERNATIVE_NAME) for each in (current, issued))
    if before is None or after is None or before.value != after.value:
        warnings += _check_alternative_names(before, after)
    return warnings


def _check_alternative_names(before: Extension | None, after: Extension | None) -> list[str]:
    try:
        wanted, found = (names.alternative_names(each.value) if each else [] for each in (before, after))
    except ValueError as error:
        if before is None:
            return [f"subjectAltName of the issued certificate cannot be read ({error}): it is ignored"]
        raise CertificateRefusedError(
            "the issued certificate has another subjectAltName than the current one, and one of the two cannot be "
            f"read: {error}"
        ) from error
    values = [{each.value for each in many} for many in (wanted, found)]
    if missing := [each.shown for each in wanted if each.value not in values[1]]:
        raise CertificateRefusedError(
            f"the issued certificate lacks {_listed(missing)} in its subjectAltName: expected the names of the "
            f"current certificate; {_PROFILE}"
        )
    if added := [each.shown for each in found if each.value not in values[0]]:
        return [f"the issued certificate adds {_listed(added)} as subjectAltName"]
    return []


def _extension(certificate: Certificate, oid: str) -> Extension | None:
    try:
        return certificate.extension(oid)
    except ValueError as error:
        raise _malformed(oid, error) from error


def _malformed(oid: str, error: ValueError) -> CertificateRefusedError:
    return CertificateRefusedError(f"{_FIELDS[oid]} of the issued certificate is malformed ({error}): {_PROFILE}")


def _check_usages(issued: Certificate) -> None:
    """Check what the key may be used for, whether or not the values are strict DER."""
    found = {oid: _extension(issued, oid) for oid in (KEY_USAGE, EXTENDED_KEY_USAGE, BASIC_CONSTRAINTS)}
    values = {oid: extension.value for oid, extension in found.items() if extension}
    oid = KEY_USAGE
    try:
        if not der.one(values.get(oid, b"\x03\x01\0"), der.BIT_STRING).content[1:2] >= b"\x80":
            raise CertificateRefusedError(
                f"the issued certificate lacks the key usage digitalSignature, which TLS needs: {_PROFILE}"
            )
        oid = EXTENDED_KEY_USAGE
        purposes = der.one(values.get(oid, b"\x30\0"), der.SEQUENCE).items
        if der.oid(CLIENT_AUTH) not in [each.encoded for each in purposes]:
            raise CertificateRefusedError(f"the issued certificate lacks the extended key usage clientAuth: {_PROFILE}")
        oid = BASIC_CONSTRAINTS
        constraints = der.one(values.get(oid, b"\x30\0"), der.SEQUENCE).items
        if any(each.tag == der.BOOLEAN and any(each.content) for each in constraints):
            raise CertificateRefusedError(f"the issued certificate is one of a CA, not a client's: {_PROFILE}")
    except ValueError as error:
        raise _malformed(oid, error) from error


def _check_validity(issued: Certificate, current: Certificate, now: datetime) -> list[str]:
    start, end = issued.begin, issued.end
    if start is None or end is None:
        which, said = ("notBefore", issued.shown_begin) if start is None else ("notAfter", issued.shown_end)
        raise CertificateRefusedError(f"{which} of the issued certificate is {said}: {_PROFILE} or its clock")
    if now >= end:
        raise CertificateRefusedError(
            f"the issued certificate ended on {issued.shown_end}, and it is {_clock(now)}: {_CLOCKS}"
        )
    if now >= end - LEAST_LIFE:
        raise CertificateRefusedError(
            f"the issued certificate ends within the hour, on {issued.shown_end}, and it is {_clock(now)}: have the "
            f"EST server issue certificates that last, or {_CLOCKS}"
        )
    if now < start - CLOCK_SKEW:
        if current.begins_after(now + CLOCK_SKEW):
            raise ClockError(
                f"the clock of this device is wrong: it says {_clock(now)}, before the current certificate began; "
                "set it, or wait for network time"
            )
        raise CertificateRefusedError(
            f"the issued certificate begins on {issued.shown_begin}, and it is {_clock(now)}: {_CLOCKS}"
        )
    warnings = []
    if now < start:
        ahead = (start - now).total_seconds()
        warnings.append(f"the issued certificate begins {ahead:.0f} s from now: the clock of this device is behind")
    if current.end is not None and end < current.end:
        warnings.append(f"the issued certificate ends on {end:%Y-%m-%d} already, before the current one does")
    return warnings


def _check_issuer(issued: Certificate, issuers: Sequence[Certificate]) -> list[str]:
    name = names.shown(issued.issuer)
    wanted = names.value(issued.issuer)
    named = [each for each in issuers if len(each.der) <= MAX_CA_SIZE and names.value(each.subject) == wanted]
    signed = [is_signed_by(issued, each) for each in named[:MAX_ISSUERS]]
    if any(signed):
        return []
    if not signed:
        return [f"no certificate of the issuer {name!r} is known: its signature was not checked"]
    if None in signed:
        return [f"the signature of the issuer {name!r} has an unknown algorithm: it was not checked"]
    raise CertificateRefusedError(
        f"the issued certificate is not signed by the key of its issuer {name!r}: it is forged, or that CA has a new "
        "key; make the EST server's /cacerts return its new certificate"
    )


def _listed(texts: Sequence[str]) -> str:
    more = [f"{len(texts) - _MOST_LISTED} more"] if len(texts) > _MOST_LISTED else []
    return ", ".join([*sorted(texts)[:_MOST_LISTED], *more])


def _clock(now: datetime) -> str:
    return f"{now:%Y-%m-%d %H:%M} UTC"
