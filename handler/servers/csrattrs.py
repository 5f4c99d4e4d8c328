"""What an EST server wants in a CSR: the answer to /csrattrs (RFC 7030 §4.5, RFC 8951 §3.4, RFC 9908).

| server wants | |
| --- | --- |
| key usage, extended key usage (extensionReq, extensionReqTemplate, request template) | a client's are added to ours |
| a certificationRequestInfoTemplate among others | only the template counts |
| a signature algorithm: ECDSA with SHA-256, SHA-384 or SHA-512 | used |
| a kind of key or a curve | the new key has the current one's: any other is refused by name |
| Subject, subjectAltName | always those of the current certificate: a renewal keeps them |
| challengePassword (tls-unique) | ignored: TLS 1.3 has no such binding (RFC 8446 §C.5) |
| anything else | ignored |
"""

import logging
from collections.abc import Iterator

from handler.crypto.csr import EXTENDED_KEY_USAGE, EXTENSION_REQUEST, KEY_USAGE, NOTHING, USAGES, CsrAttributes
from hsm import der
from hsm.der import Element

log = logging.getLogger(__name__)

_EXTENSION_REQUESTS = {EXTENSION_REQUEST, "1.2.840.113549.1.9.16.2.62"}  # and extensionReqTemplate
_REQUEST_TEMPLATE = "1.2.840.113549.1.9.16.2.61"  # certificationRequestInfoTemplate, RFC 9908 §3.4
_EC_PUBLIC_KEY = "1.2.840.10045.2.1"
_KEY_KINDS = {_EC_PUBLIC_KEY: "EC", "1.2.840.113549.1.1.1": "RSA", "1.3.101.112": "Ed25519", "1.3.101.113": "Ed448"}
_CURVES = {"1.2.840.10045.3.1.7": "secp256r1", "1.3.132.0.34": "secp384r1", "1.3.132.0.35": "secp521r1"}
_SIGNATURES = {"1.2.840.10045.4.3.2": 256, "1.2.840.10045.4.3.3": 384, "1.2.840.10045.4.3.4": 512}
# anyExtendedKeyUsage, codeSigning, timeStamping, OCSPSigning (RFC 5280 §4.2.1.12), which this device never does.
_NOT_A_CLIENTS = {"2.5.29.37.0", "1.3.6.1.5.5.7.3.3", "1.3.6.1.5.5.7.3.8", "1.3.6.1.5.5.7.3.9"}
MAX_BYTES = 128 * 1024


def parse_csrattrs(data: bytes) -> CsrAttributes:
    """Read a CsrAttrs (DER). Raises ValueError."""
    if len(data) > MAX_BYTES:
        raise ValueError(f"{len(data)} bytes: expected at most {MAX_BYTES}")
    wanted = NOTHING
    items = [_attribute(each) for each in der.one(data, der.SEQUENCE).items]
    templates = [each for each in items if each[0] == _REQUEST_TEMPLATE and each[1]]
    for oid, values in templates or items:  # a client that knows templates ignores the rest (RFC 9908 §3.4)
        wanted = _with_oid(wanted, oid) if values is None else _with_attribute(wanted, oid, values)
    # A curve is more specific than EC.
    keys = wanted.keys - {"EC"} if wanted.keys & set(_CURVES.values()) else wanted.keys
    return wanted._replace(keys=keys, extended_usages=tuple(dict.fromkeys(wanted.extended_usages)))


def _attribute(item: Element) -> tuple[str, list[Element] | None]:
    """Read an attribute, or an object identifier alone, which has no values."""
    if item.tag == der.OID:
        return _oid(item), None
    if item.tag != der.SEQUENCE:
        raise ValueError(f"neither an object identifier nor an attribute: tag {item.tag:02x}")
    if len(item.items) != 2:  # noqa: PLR2004
        raise ValueError(f"expected a type and values, found {len(item.items)} elements")
    kind, values = item.items
    if values.tag != der.SET:
        raise ValueError(f"expected a set of values, found tag {values.tag:02x}")
    return _oid(kind), values.items


def _oid(element: Element) -> str:
    """Return an object identifier; empty for an absurdly long one."""
    if element.tag != der.OID:
        raise ValueError(f"expected an object identifier, found tag {element.tag:02x}")
    try:
        return der.dotted(element.content)
    except ValueError as error:
        log.debug("/csrattrs: ignored: %s", error)
        return ""


def _with_oid(wanted: CsrAttributes, oid: str) -> CsrAttributes:
    if oid in _SIGNATURES:
        return wanted._replace(hash_bits=_SIGNATURES[oid])
    if oid in _KEY_KINDS or oid in _CURVES:
        return wanted._replace(keys=wanted.keys | {_KEY_KINDS.get(oid) or _CURVES[oid]})
    log.debug("/csrattrs: %s is ignored", oid)
    return wanted


def _with_attribute(wanted: CsrAttributes, oid: str, values: list[Element]) -> CsrAttributes:
    if oid in _KEY_KINDS:  # with any parameter if there is none
        wanted = _with_oid(wanted, oid)
    for value in values:
        if oid in _EXTENSION_REQUESTS:
            wanted = _with_extensions(wanted, value)
        elif oid == _REQUEST_TEMPLATE:
            wanted = _with_template(wanted, value)
        elif oid in _KEY_KINDS:
            wanted = _with_oid(wanted, _oid(value)) if value.tag == der.OID else wanted
        else:
            log.debug("/csrattrs: attribute %s is ignored", oid)
    return wanted


def _with_template(wanted: CsrAttributes, template: Element) -> CsrAttributes:
    """Read a certificationRequestInfoTemplate: [0] is the key's algorithm, [1] the attributes."""
    for part in template.items:
        if part.tag == der.CONTEXT_0:
            algorithm = part.items[0].items if part.content else []
            for each in algorithm:
                wanted = _with_oid(wanted, _oid(each)) if each.tag == der.OID else wanted
        elif part.tag == der.CONTEXT_1:
            for each in part.items:
                oid, values = _attribute(each)
                wanted = _with_attribute(wanted, oid, values or [])
    return wanted


def _with_extensions(wanted: CsrAttributes, value: Element) -> CsrAttributes:
    """Read Extensions or an ExtensionReqTemplate; bare OIDs, as in RFC 7030's example, add nothing to ours."""
    for oid, content in _extensions(value):
        if oid == KEY_USAGE:
            bits = der.one(content, der.BIT_STRING).content[1:2] or b"\0"
            found = {name for place, name in enumerate(USAGES) if bits[0] & 0x80 >> place}
            wanted = wanted._replace(usages=wanted.usages | found)
        elif oid == EXTENDED_KEY_USAGE:
            purposes = map(_oid, der.one(content, der.SEQUENCE).items)
            oids = [each for each in purposes if each and each not in _NOT_A_CLIENTS]
            wanted = wanted._replace(extended_usages=(*wanted.extended_usages, *oids))
    return wanted


def _extensions(value: Element) -> Iterator[tuple[str, bytes]]:
    """Iterate over the extensions that have a value."""
    for extension in value.items if value.tag == der.SEQUENCE else ():
        kind, *parts = extension.items or [extension]
        found = [each.content for each in parts if each.tag == der.OCTET_STRING]
        if found:
            yield _oid(kind), found[0]
