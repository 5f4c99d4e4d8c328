"""What an EST server issues for a CSR, and every way of issuing something that a device must not accept.

`MISISSUED` names them; a test may also give a function of its own, which changes the draft before it is signed.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from .pki import CLIENT_AUTH, SERVER_AUTH, Draft, FactoryPki, general_names, key_usage

Misissue = Callable[[Draft, FactoryPki], None]


def issued_for(
    csr: x509.CertificateSigningRequest, pki: FactoryPki, validity: timedelta, misissue: str | Misissue | None = None
) -> x509.Certificate:
    """Issue what the reference server issues for that CSR (begins now), spoilt where asked for."""
    now = datetime.now(UTC)
    draft = Draft(
        public_key=csr.public_key(),
        subject=csr.subject,
        extensions=[
            (key_usage("digital_signature"), True),
            (x509.ExtendedKeyUsage([CLIENT_AUTH]), False),
            (x509.BasicConstraints(ca=False, path_length=None), True),
        ],
        issuer=pki.device_ca,
        begins=now,
        ends=now + validity,
    )
    draft.extensions += [(each.value, False) for each in csr.extensions if _is_san(each)]
    if misissue is not None:
        spoil = MISISSUED[misissue] if isinstance(misissue, str) else misissue
        spoil(draft, pki)
    return pki.issue(draft)


def _is_san(extension: x509.Extension) -> bool:
    return isinstance(extension.value, x509.SubjectAlternativeName)


def _other_key(draft: Draft, _pki: FactoryPki) -> None:
    draft.public_key = ec.generate_private_key(ec.SECP256R1()).public_key()


def _other_subject(draft: Draft, pki: FactoryPki) -> None:
    draft.subject = pki.name("00000000-0000-4000-8000-000000000000")


def _other_string_type(draft: Draft, _pki: FactoryPki) -> None:
    """Encode the same names as PrintableString: equal for a reader, not byte for byte."""
    draft.subject = x509.Name([x509.NameAttribute(a.oid, a.value, _PRINTABLE) for a in draft.subject])


_PRINTABLE = x509.name._ASN1Type.PrintableString


def _other_san(draft: Draft, _pki: FactoryPki) -> None:
    draft.replace(x509.SubjectAlternativeName, (general_names(["other.example"]), False))


def _no_san(draft: Draft, _pki: FactoryPki) -> None:
    draft.replace(x509.SubjectAlternativeName)


def _added_san(draft: Draft, _pki: FactoryPki) -> None:
    present = [str(name.value) for value, _ in draft.extensions if _is_names(value) for name in value]
    draft.replace(x509.SubjectAlternativeName, (general_names([*present, "added.example"]), False))


def _is_names(value: x509.ExtensionType) -> bool:
    return isinstance(value, x509.SubjectAlternativeName)


def _ca(draft: Draft, _pki: FactoryPki) -> None:
    draft.replace(x509.BasicConstraints, (x509.BasicConstraints(ca=True, path_length=None), True))
    draft.replace(x509.KeyUsage, (key_usage("digital_signature", "key_cert_sign"), True))


def _no_digital_signature(draft: Draft, _pki: FactoryPki) -> None:
    draft.replace(x509.KeyUsage, (key_usage("key_agreement"), True))


def _no_key_usage(draft: Draft, _pki: FactoryPki) -> None:
    draft.replace(x509.KeyUsage)


def _no_client_auth(draft: Draft, _pki: FactoryPki) -> None:
    draft.replace(x509.ExtendedKeyUsage, (x509.ExtendedKeyUsage([SERVER_AUTH]), False))


def _no_extended_key_usage(draft: Draft, _pki: FactoryPki) -> None:
    draft.replace(x509.ExtendedKeyUsage)


def _extra_usages(draft: Draft, _pki: FactoryPki) -> None:
    draft.replace(x509.KeyUsage, (key_usage("digital_signature", "key_agreement"), True))
    draft.replace(x509.ExtendedKeyUsage, (x509.ExtendedKeyUsage([SERVER_AUTH, CLIENT_AUTH]), False))


def _shift(draft: Draft, offset: timedelta) -> None:
    draft.begins, draft.ends = draft.begins + offset, draft.ends + offset


def _expired(draft: Draft, _pki: FactoryPki) -> None:
    _shift(draft, -(draft.ends - draft.begins) - timedelta(days=1))


def _not_yet_valid(draft: Draft, _pki: FactoryPki) -> None:
    _shift(draft, timedelta(days=1))


def _slightly_ahead(draft: Draft, _pki: FactoryPki) -> None:
    """Begin two minutes from now: clock skew."""
    _shift(draft, timedelta(minutes=2))


def _unknown_issuer(draft: Draft, pki: FactoryPki) -> None:
    draft.issuer = pki.authority("somebody-else-ca")


def _forged_issuer(draft: Draft, pki: FactoryPki) -> None:
    """Name the device CA, sign with another key."""
    draft.issuer = pki.authority("somebody-else-ca")
    draft.issuer_name = pki.device_ca.name


MISISSUED: dict[str, Misissue] = {
    "other key": _other_key,
    "other subject": _other_subject,
    "other string type": _other_string_type,
    "other SAN": _other_san,
    "no SAN": _no_san,
    "added SAN": _added_san,
    "CA certificate": _ca,
    "no digitalSignature": _no_digital_signature,
    "no key usage": _no_key_usage,
    "no clientAuth": _no_client_auth,
    "no extended key usage": _no_extended_key_usage,
    "extra usages": _extra_usages,
    "expired": _expired,
    "not yet valid": _not_yet_valid,
    "slightly ahead": _slightly_ahead,
    "unknown issuer": _unknown_issuer,
    "forged issuer": _forged_issuer,
}
