"""The CSR of a new key, and the checks of the certificate that comes back. Pure: no file, no network.

What is refused on an issued certificate:

| it | because |
| --- | --- |
| holds another public key | the device cannot use it |
| has another Subject (byte for byte), or lacks a subjectAltName of the current one | it names another device |
| lacks digitalSignature or clientAuth | gateways refuse it; further usages are fine |
| is a CA certificate | it is no client certificate |
| has expired, or begins more than five minutes from now | nobody accepts it |
| is not signed by its issuer, where a certificate of that name is at hand | it is forged |
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from handler.errors import CertificateRefusedError, ClockError, RequestRefusedError, ServerRefusedError

Kind = TypeVar("Kind", bound=x509.ExtensionType)

CLOCK_SKEW = timedelta(minutes=5)
_CURVES = {"secp256r1", "secp384r1"}
_UNREADABLE = (ValueError, TypeError, UnsupportedAlgorithm, x509.DuplicateExtension, x509.UnsupportedGeneralNameType)
CLIENT_USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
)
"""Bits of KeyUsage (RFC 5280 §4.2.1.3), from the first, that a client's key may have; not those of a CA."""
_HASHES: dict[int, hashes.SHA256 | hashes.SHA384 | hashes.SHA512] = {
    256: hashes.SHA256(),
    384: hashes.SHA384(),
    512: hashes.SHA512(),
}
_CLIENT_AUTH = x509.oid.ExtendedKeyUsageOID.CLIENT_AUTH


@dataclass(frozen=True)
class CsrAttributes:
    """What a CSR has to hold beside what a renewal holds anyway."""

    usages: frozenset[str] = frozenset()
    """Names of x509.KeyUsage."""
    extended_usages: tuple[str, ...] = ()
    """Dotted OIDs."""
    hash_bits: int | None = None
    """Of the signature's hash: 256, 384 or 512."""
    keys: frozenset[str] = frozenset()
    """Kinds of keys or names of curves; any is right where none is named."""

    def check_curve(self, curve: str) -> None:
        """Raise ServerRefusedError where a key on that curve is not what is asked for."""
        if self.keys and not self.keys & {curve, "EC"}:
            raise ServerRefusedError(
                f"the EST server asks (in /csrattrs) for a key of the kind {' or '.join(sorted(self.keys))}: this "
                f"device makes one on {curve}, as its current key is; have the server take such keys",
                200,
            )


NOTHING = CsrAttributes()


def build_csr(current: x509.Certificate, key: ec.EllipticCurvePrivateKey, wanted: CsrAttributes = NOTHING) -> bytes:
    """Give the CSR (PKCS#10, DER) that renews `current` for `key`, a key on P-256 or P-384 that may stay in its token.

    Subject and subjectAltName are those of `current` byte for byte (RFC 7030 §4.2.2); the usages are encoded as the
    reference client does, with those added that the server wants. Raises RequestRefusedError where that cannot be
    done, ServerRefusedError where another key is wanted.
    """
    wanted.check_curve(key.curve.name)
    if key.curve.name not in _CURVES:
        raise RequestRefusedError(f"the new key is on {key.curve.name}: expected P-256 or P-384")
    try:
        subject = current.subject
        alternative = _extension(current, x509.SubjectAlternativeName)
    except _UNREADABLE as error:
        raise RequestRefusedError(
            f"the current certificate cannot be renewed: {error}; register the device anew"
        ) from error
    builder = x509.CertificateSigningRequestBuilder(subject)
    others = [x509.ObjectIdentifier(oid) for oid in wanted.extended_usages if oid != _CLIENT_AUTH.dotted_string]
    builder = builder.add_extension(_key_usage(wanted.usages), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([_CLIENT_AUTH, *others]), critical=True)
    _check_kept(current, subject.public_bytes(), "Subject")
    if alternative is not None:
        _check_kept(current, alternative.value.public_bytes(), "subjectAltName")
        builder = builder.add_extension(alternative.value, critical=alternative.critical)
    # On P-384 too: estserver takes only the signature algorithm of its CA, ECDSA with SHA-256.
    return builder.sign(key, _HASHES[wanted.hash_bits or 256]).public_bytes(Encoding.DER)


def spki_pem(public_key: ec.EllipticCurvePublicKey) -> str:
    """Give the public key as SubjectPublicKeyInfo, PEM: the form that the gateway takes."""
    return public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode("ascii")


def spki_der(public_key: ec.EllipticCurvePublicKey) -> bytes:
    """Give the public key as SubjectPublicKeyInfo, DER."""
    return public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def ec_key_of(certificate: x509.Certificate) -> ec.EllipticCurvePublicKey | None:
    """Give the public key of a certificate; None where it is none on a curve, or of a kind that is not known here."""
    try:
        found = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        return None
    return found if isinstance(found, ec.EllipticCurvePublicKey) else None


def holds_key(certificate: x509.Certificate, public_key: ec.EllipticCurvePublicKey) -> bool:
    """Tell whether the certificate is for that public key."""
    found = ec_key_of(certificate)
    return found is not None and spki_der(found) == spki_der(public_key)


def pick_issued(candidates: Sequence[x509.Certificate], public_key: ec.EllipticCurvePublicKey) -> x509.Certificate:
    """Pick the certificate for that public key, the latest one where there are several, whatever their order.

    Raises CertificateRefusedError where there is none.
    """
    ours = [certificate for certificate in candidates if holds_key(certificate, public_key)]
    if not ours:
        raise CertificateRefusedError(
            f"none of the {len(candidates)} certificates that the EST server sent is for the new key: "
            "expected the one that was asked for"
        )
    return max(ours, key=lambda certificate: certificate.not_valid_before_utc)


def check_issued(
    issued: x509.Certificate,
    current: x509.Certificate,
    public_key: ec.EllipticCurvePublicKey,
    *,
    issuers: Sequence[x509.Certificate],
    now: datetime,
    tried: bool = False,
) -> list[str]:
    """Check the certificate issued for `public_key` in the place of `current`; give the warnings.

    `issuers` are all the certificates at hand that may be its issuer's, `now` is an aware time. `tried`: the EST server
    has taken it in a TLS handshake, so that an issuer that is not at hand is nothing to warn of. Raises
    CertificateRefusedError, and ClockError where the clock of the device is wrong.
    """
    try:
        if not holds_key(issued, public_key):
            raise CertificateRefusedError("the issued certificate is for another key than the one that was sent")
        warnings = [
            *_check_names(issued, current),
            *_check_usages(issued),
            *_check_validity(issued, current, now),
        ]
        unknown_issuer = _check_issuer(issued, issuers)
        return warnings if tried else [*warnings, *unknown_issuer]
    except _UNREADABLE as error:
        raise CertificateRefusedError(f"the issued certificate is malformed: {error}") from error


def check_clock(issued: x509.Certificate, *, now: datetime, server_time: datetime | None) -> None:
    """Raise ClockError where the certificate is valid by the clock of the server that issued it, but not by ours."""
    if server_time is None:
        return
    begin, end = issued.not_valid_before_utc - CLOCK_SKEW, issued.not_valid_after_utc
    if begin <= server_time < end and not begin <= now < end:
        raise ClockError(
            f"the clock of this device is wrong: it says {_clock(now)}, the EST server says {_clock(server_time)}; "
            "set it, or wait for network time"
        )


def _key_usage(usages: Iterable[str]) -> x509.KeyUsage:
    """Make the extension of digitalSignature and those usages."""
    bits = dict.fromkeys((*CLIENT_USAGES, "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"), False)
    return x509.KeyUsage(**bits | dict.fromkeys(usages, True) | {"digital_signature": True})


def _extension(certificate: x509.Certificate, kind: type[Kind]) -> x509.Extension[Kind] | None:
    try:
        return certificate.extensions.get_extension_for_class(kind)
    except x509.ExtensionNotFound:
        return None


def _check_kept(current: x509.Certificate, encoded: bytes, what: str) -> None:
    """Make sure that decoding and encoding gave the same bytes: servers compare them."""
    if encoded not in current.tbs_certificate_bytes:
        raise RequestRefusedError(
            f"the {what} of the current certificate is encoded in a way that cannot be repeated byte for byte, "
            "which EST servers ask for; register the device anew"
        )


def _check_names(issued: x509.Certificate, current: x509.Certificate) -> list[str]:
    if issued.subject.public_bytes() != current.subject.public_bytes():
        raise CertificateRefusedError(
            f"the issued certificate has the Subject {issued.subject.rfc4514_string()!r}: expected "
            f"{current.subject.rfc4514_string()!r}, encoded as in the current certificate"
        )
    before = _extension(current, x509.SubjectAlternativeName)
    after = _extension(issued, x509.SubjectAlternativeName)
    wanted, found = (set(names.value) if names else set() for names in (before, after))
    if not wanted <= found:
        raise CertificateRefusedError(
            f"the issued certificate lacks {_listed(wanted - found)} in its subjectAltName: expected the names of the "
            "current certificate"
        )
    return [f"the issued certificate adds {_listed(found - wanted)} as subjectAltName"] if found != wanted else []


def _check_usages(issued: x509.Certificate) -> list[str]:
    usage = _extension(issued, x509.KeyUsage)
    if usage is None or not usage.value.digital_signature:
        raise CertificateRefusedError("the issued certificate lacks the key usage digitalSignature, which TLS needs")
    extended = _extension(issued, x509.ExtendedKeyUsage)
    if extended is None or _CLIENT_AUTH not in extended.value:
        raise CertificateRefusedError("the issued certificate lacks the extended key usage clientAuth")
    constraints = _extension(issued, x509.BasicConstraints)
    if constraints is not None and constraints.value.ca:
        raise CertificateRefusedError("the issued certificate is one of a CA: expected a client certificate")
    return []


def _check_validity(issued: x509.Certificate, current: x509.Certificate, now: datetime) -> list[str]:
    start, end = issued.not_valid_before_utc, issued.not_valid_after_utc
    if now >= end:
        raise CertificateRefusedError(f"the issued certificate ended on {end:%Y-%m-%d %H:%M} UTC: it is {_clock(now)}")
    if now < start - CLOCK_SKEW:
        if now < current.not_valid_before_utc - CLOCK_SKEW:
            raise ClockError(
                f"the clock of this device is wrong: it says {_clock(now)}, before the current certificate began; "
                "set it, or wait for network time"
            )
        raise CertificateRefusedError(
            f"the issued certificate begins on {start:%Y-%m-%d %H:%M} UTC: it is {_clock(now)}; "
            "look at the clocks of this device and of the EST server"
        )
    warnings = []
    if now < start:
        ahead = (start - now).total_seconds()
        warnings.append(f"the issued certificate begins {ahead:.0f} s from now: the clock of this device is behind")
    if end < current.not_valid_after_utc:
        warnings.append(f"the issued certificate ends on {end:%Y-%m-%d} already, before the current one does")
    return warnings


def _check_issuer(issued: x509.Certificate, issuers: Sequence[x509.Certificate]) -> list[str]:
    name = issued.issuer
    named = [certificate for certificate in issuers if _subject(certificate) == name]
    if not named:
        return [f"no certificate of the issuer {name.rfc4514_string()!r} is at hand: its signature was not checked"]
    if not any(_signed_by(issued, certificate) for certificate in named):
        raise CertificateRefusedError(
            f"the issued certificate is not signed by the key of its issuer {name.rfc4514_string()!r}: it is forged, "
            "or that CA has a new key that this device does not know"
        )
    return []


def _signed_by(issued: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        issued.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError, UnsupportedAlgorithm):
        return False
    return True


def device_id(certificate: x509.Certificate) -> str:
    """Give the id of the device that a certificate names: its common name; empty where it has none."""
    names = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return str(names[0].value) if names else ""


def _subject(certificate: x509.Certificate) -> x509.Name | None:
    try:
        return certificate.subject
    except ValueError:
        return None


def _listed(names: set[x509.GeneralName]) -> str:
    return ", ".join(sorted(str(name.value) for name in names))


def _clock(now: datetime) -> str:
    return f"{now:%Y-%m-%d %H:%M} UTC"
