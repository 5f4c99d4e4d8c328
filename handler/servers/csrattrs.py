"""What an EST server wants in a CSR: the answer of /csrattrs (RFC 7030 §4.5, RFC 8951 §3.4, RFC 9908).

Honoured as far as it asks for what this device may give:

| asked for | |
| --- | --- |
| key usage, extended key usage (extensionReq, extensionReqTemplate, request template) | a client's: added to ours |
| a certificationRequestInfoTemplate beside others | the template alone counts |
| a signature algorithm: ECDSA with SHA-256, SHA-384 or SHA-512 | used |
| a kind of key or a curve | the new key has the current one's: anything else is refused, with what was asked for |
| Subject, subjectAltName | those of the current certificate, whatever is asked for: a renewal keeps them |
| challengePassword (tls-unique) | not given: there is no such binding in TLS 1.3 (RFC 8446 §C.5) |
| anything else | ignored |
"""

import logging
from collections.abc import Iterator
from dataclasses import replace

from asn1crypto import core
from asn1crypto import x509 as asn1
from cryptography.x509 import ObjectIdentifier

from handler.crypto.certificates import CLIENT_USAGES, NOTHING, CsrAttributes

log = logging.getLogger(__name__)

_EXTENSION_REQUESTS = {"1.2.840.113549.1.9.14", "1.2.840.113549.1.9.16.2.62"}  # extensionReq, extensionReqTemplate
_REQUEST_TEMPLATE = "1.2.840.113549.1.9.16.2.61"  # certificationRequestInfoTemplate, RFC 9908 §3.4
_EC_PUBLIC_KEY = "1.2.840.10045.2.1"
_KEY_KINDS = {_EC_PUBLIC_KEY: "EC", "1.2.840.113549.1.1.1": "RSA", "1.3.101.112": "Ed25519", "1.3.101.113": "Ed448"}
_CURVES = {"1.2.840.10045.3.1.7": "secp256r1", "1.3.132.0.34": "secp384r1", "1.3.132.0.35": "secp521r1"}
_SIGNATURES = {"1.2.840.10045.4.3.2": 256, "1.2.840.10045.4.3.3": 384, "1.2.840.10045.4.3.4": 512}
_KEY_USAGE, _EXTENDED_KEY_USAGE = "2.5.29.15", "2.5.29.37"
# anyExtendedKeyUsage, codeSigning, timeStamping, OCSPSigning (RFC 5280 §4.2.1.12): this device does nothing of that.
_NOT_A_CLIENTS = {"2.5.29.37.0", "1.3.6.1.5.5.7.3.3", "1.3.6.1.5.5.7.3.8", "1.3.6.1.5.5.7.3.9"}


class _Value(core.SetOf):  # type: ignore[misc]
    _child_spec = core.Any


class _Parts(core.SequenceOf):  # type: ignore[misc]
    _child_spec = core.Any


class _Attribute(core.Sequence):  # type: ignore[misc]
    _fields = [("type", core.ObjectIdentifier), ("values", _Value)]  # noqa: RUF012


class _AttrOrOid(core.Choice):  # type: ignore[misc]
    _alternatives = [("oid", core.ObjectIdentifier), ("attribute", _Attribute)]  # noqa: RUF012


class _CsrAttrs(core.SequenceOf):  # type: ignore[misc]
    _child_spec = _AttrOrOid


class _Extension(core.Sequence):  # type: ignore[misc]
    _fields = [  # noqa: RUF012
        ("id", core.ObjectIdentifier),
        ("critical", core.Boolean, {"default": False}),
        ("value", core.OctetString, {"optional": True}),
    ]


class _Attributes(core.SetOf):  # type: ignore[misc]
    _child_spec = _Attribute


class _KeyTemplate(core.Sequence):  # type: ignore[misc]
    _fields = [("algorithm", _Parts), ("key", core.BitString, {"optional": True})]  # noqa: RUF012


class _Template(core.Sequence):  # type: ignore[misc]
    _fields = [  # noqa: RUF012
        ("version", core.Integer),
        ("subject", _Parts, {"optional": True}),
        ("key", _KeyTemplate, {"implicit": 0, "optional": True}),
        ("attributes", _Attributes, {"implicit": 1, "optional": True}),
    ]


def parse_csrattrs(der: bytes) -> CsrAttributes:
    """Read a CsrAttrs (DER). Raises ValueError where it is none."""
    wanted = NOTHING
    try:
        items = list(_CsrAttrs.load(der, strict=True))
        templates = [each for each in items if each.name == "attribute" and _is_template(each.chosen)]
        for item in templates or items:  # who knows templates goes by them alone (RFC 9908 §3.4)
            if item.name == "oid":
                wanted = _with_oid(wanted, item.chosen.dotted)
            else:
                wanted = _with_attribute(wanted, item.chosen)
    except (
        TypeError,
        KeyError,
        AttributeError,
        IndexError,
        OverflowError,
        RecursionError,
    ) as error:  # its ways to say so
        raise ValueError(str(error)) from error
    # A curve says more than that it is EC.
    return replace(wanted, keys=wanted.keys - {"EC"} if wanted.keys & set(_CURVES.values()) else wanted.keys)


def _with_oid(wanted: CsrAttributes, oid: str) -> CsrAttributes:
    if oid in _SIGNATURES:
        return replace(wanted, hash_bits=_SIGNATURES[oid])
    if oid in _KEY_KINDS or oid in _CURVES:
        return replace(wanted, keys=wanted.keys | {_KEY_KINDS.get(oid) or _CURVES[oid]})
    log.debug("/csrattrs: %s is ignored", oid)
    return wanted


def _with_attribute(wanted: CsrAttributes, attribute: _Attribute) -> CsrAttributes:
    oid = attribute["type"].dotted
    if oid in _KEY_KINDS:  # with any parameter where none is named
        wanted = _with_oid(wanted, oid)
    for value in attribute["values"]:
        der = value.dump()
        if oid in _EXTENSION_REQUESTS:
            wanted = _with_extensions(wanted, der)
        elif oid == _REQUEST_TEMPLATE:
            wanted = _with_template(wanted, _Template.load(der, strict=True))
        elif oid in _KEY_KINDS:
            parameter = _oid_of(der)
            wanted = _with_oid(wanted, parameter) if parameter else wanted
        else:
            log.debug("/csrattrs: attribute %s is ignored", oid)
    return wanted


def _with_template(wanted: CsrAttributes, template: _Template) -> CsrAttributes:
    key = template["key"]
    if key.native is not None:
        for part in key["algorithm"]:
            oid = _oid_of(part.dump())
            wanted = _with_oid(wanted, oid) if oid else wanted
    if template["attributes"].native is not None:
        for attribute in template["attributes"]:
            wanted = _with_attribute(wanted, attribute)
    return wanted


def _with_extensions(wanted: CsrAttributes, der: bytes) -> CsrAttributes:
    """Read Extensions or an ExtensionReqTemplate; OIDs alone, as RFC 7030 shows them, ask for nothing beside ours."""
    for extension in _extensions(der):
        oid, value = extension["id"].dotted, extension["value"].native
        if value is None:
            continue
        if oid == _KEY_USAGE:
            bits = asn1.KeyUsage.load(value, strict=True).native
            names = {"non_repudiation": "content_commitment"}
            found = {names.get(bit, bit) for bit in bits} & set(CLIENT_USAGES)
            wanted = replace(wanted, usages=wanted.usages | found)
        elif oid == _EXTENDED_KEY_USAGE:
            purposes = [each.dotted for each in asn1.ExtKeyUsageSyntax.load(value, strict=True)]
            found_oids = [oid for oid in purposes if oid not in _NOT_A_CLIENTS and _is_usable(oid)]
            wanted = replace(wanted, extended_usages=tuple(dict.fromkeys([*wanted.extended_usages, *found_oids])))
    return wanted


def _is_usable(oid: str) -> bool:
    """Tell whether a CSR can hold the OID: DER allows arcs of any size, cryptography does not."""
    try:
        ObjectIdentifier(oid)
    except ValueError:
        log.debug("/csrattrs: %.40s… is ignored", oid)
        return False
    return True


def _is_template(attribute: _Attribute) -> bool:
    return bool(attribute["type"].dotted == _REQUEST_TEMPLATE)


def _extensions(der: bytes) -> Iterator[_Extension]:
    if _oid_of(der):
        return
    for item in _Parts.load(der, strict=True):
        yield _Extension.load(item.dump(), strict=True)


def _oid_of(der: bytes) -> str | None:
    return str(core.ObjectIdentifier.load(der, strict=True).dotted) if der[:1] == b"\x06" else None
