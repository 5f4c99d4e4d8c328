"""What is in a token, for people: its objects with the attributes that matter, and how its PIN stands.

Nothing is changed, and the PIN is left alone unless it is given: without a login a token shows certificates and public
keys, which is enough to tell which identity is in use.
"""

import contextlib
from dataclasses import dataclass
from enum import Enum
from typing import Any

import pkcs11
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pkcs11 import Attribute, KeyType, ObjectClass
from pkcs11 import exceptions as p11
from pkcs11.constants import TokenFlag

from hsm import module as modules
from hsm.attributes import TolerantMapper
from hsm.certificate import Certificate
from hsm.curves import curve_of, public_key, shown_curve
from hsm.objects import class_name, class_of, label_of
from hsm.token import PinMemory, Token
from hsm.translation import translated

_SHORT = {
    ObjectClass.PRIVATE_KEY: "private",
    ObjectClass.PUBLIC_KEY: "public",
    ObjectClass.CERTIFICATE: "cert",
}
_MATTER = {
    "sign": Attribute.SIGN,
    "derive": Attribute.DERIVE,
    "sensitive": Attribute.SENSITIVE,
    "extractable": Attribute.EXTRACTABLE,
}


class PinState(Enum):
    """How the user's PIN stands (PKCS#11 v2.40 §3.2, CK_TOKEN_INFO)."""

    GOOD = "good"
    LOW = "refused since the last login"
    FINAL = "one attempt left"
    LOCKED = "locked"
    MISSING = "not set"


@dataclass(frozen=True)
class Item:
    """One object of a token."""

    kind: str
    """`private`, `public`, `cert`, or the class as PKCS#11 names it."""
    cka_id: bytes
    label: str
    key_type: str
    """`P-256`, `P-384`, `RSA 2048`, ...; of a certificate, that of its key; empty where there is none."""
    flags: tuple[str, ...] = ()
    """Of sign, derive, sensitive and extractable those that are set on a private or secret key."""
    spki: bytes | None = None
    """The public key of a public key or certificate (DER), where it is of a known kind."""
    certificate: Certificate | None = None

    @property
    def id(self) -> str:
        """The CKA_ID in hexadecimal: `01`; `-` where there is none."""
        return self.cka_id.hex() or "-"


class Inventory:
    """The token of that label in a PKCS#11 module. All methods raise hsm.errors.TokenError."""

    def __init__(self, module: str, label: str) -> None:
        self._module = module
        self._label = label

    def pin_state(self) -> PinState:
        """Ask the token how its PIN stands, without trying it."""
        with modules.Calls():
            try:
                flags = modules.load(self._module).find(self._label).flags
            except p11.PKCS11Error as error:
                raise translated(error, "look", self._label) from error
        for flag, state in (
            (TokenFlag.USER_PIN_LOCKED, PinState.LOCKED),
            (TokenFlag.USER_PIN_FINAL_TRY, PinState.FINAL),
            (TokenFlag.USER_PIN_COUNT_LOW, PinState.LOW),
        ):
            if flags & flag:
                return state
        return PinState.GOOD if flags & TokenFlag.USER_PIN_INITIALIZED else PinState.MISSING

    def public_items(self) -> list[Item]:
        """List what the token shows to anybody: the PIN is not needed. No private key is among it."""
        with modules.Calls():
            try:
                found = modules.load(self._module).find(self._label)
                with contextlib.closing(found.open(attribute_mapper=TolerantMapper())) as session:
                    return _listed(session)
            except p11.PKCS11Error as error:
                raise translated(error, "list the objects", self._label) from error

    def items(self, pin: str, memory: PinMemory | None = None) -> list[Item]:
        """List everything, logged in. The caller has looked at pin_state()."""
        token = Token(self._module, self._label, pin, memory)
        try:
            with token.session("list the objects") as session:
                return _listed(session)
        finally:
            token.close()


def _listed(session: pkcs11.Session) -> list[Item]:
    # A list at once: a search that is half read stands in the way of the next one.
    return sorted(map(_item, list(session.get_objects())), key=_order)


def _order(item: Item) -> tuple[bytes, str, str]:
    return item.cka_id, item.kind, item.label


def _item(found: Any) -> Item:  # noqa: ANN401 - pkcs11 makes its classes as it runs
    kind = class_of(found)
    name = (_SHORT.get(kind) if isinstance(kind, ObjectClass) else None) or class_name(kind)
    cka_id = _read(found, Attribute.ID) or b""
    label = label_of(found)
    if kind is ObjectClass.CERTIFICATE:
        certificate = _certificate(_read(found, Attribute.VALUE))
        return Item(name, cka_id, label, *_of_certificate(certificate), certificate)
    if kind is ObjectClass.PUBLIC_KEY:
        key = _public_key(found)
        return Item(name, cka_id, label, _key_type(found), (), _spki(key))
    if kind in (ObjectClass.PRIVATE_KEY, ObjectClass.SECRET_KEY):
        flags = tuple(word for word, attribute in _MATTER.items() if _read(found, attribute) is True)
        return Item(name, cka_id, label, _key_type(found), flags)
    return Item(name, cka_id, label, "")


def _read(found: Any, attribute: Attribute) -> Any:  # noqa: ANN401
    """Give an attribute; None where the object does not have it or does not show it."""
    try:
        return found[attribute]
    except (p11.AttributeTypeInvalid, p11.AttributeSensitive, p11.FunctionFailed):
        return None


def _key_type(found: Any) -> str:  # noqa: ANN401
    kind = _read(found, Attribute.KEY_TYPE)
    if kind == KeyType.EC:
        curve = curve_of(_read(found, Attribute.EC_PARAMS) or b"")
        return shown_curve(curve) if curve else "EC"
    if kind == KeyType.RSA:
        modulus = _read(found, Attribute.MODULUS)
        return f"RSA {int.from_bytes(modulus).bit_length()}" if modulus else "RSA"
    return str(getattr(kind, "name", kind or "")).replace("_", " ")


def _public_key(found: Any) -> ec.EllipticCurvePublicKey | rsa.RSAPublicKey | None:  # noqa: ANN401
    kind = _read(found, Attribute.KEY_TYPE)
    try:
        if kind == KeyType.EC:
            curve = curve_of(_read(found, Attribute.EC_PARAMS) or b"")
            return public_key(curve, _read(found, Attribute.EC_POINT) or b"") if curve else None
        if kind == KeyType.RSA:
            exponent, modulus = _read(found, Attribute.PUBLIC_EXPONENT), _read(found, Attribute.MODULUS)
            return rsa.RSAPublicNumbers(int.from_bytes(exponent), int.from_bytes(modulus)).public_key()
    except (ValueError, TypeError):
        pass
    return None


def _spki(key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey | None) -> bytes | None:
    return None if key is None else key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _certificate(der: bytes | None) -> Certificate | None:
    try:
        return Certificate.read(der or b"")
    except ValueError:
        return None


def _of_certificate(certificate: Certificate | None) -> tuple[str, tuple[str, ...], bytes | None]:
    """Give the type of the certificate's key, no flags, and the key."""
    key = None if certificate is None else certificate.public_key()
    if isinstance(key, ec.EllipticCurvePublicKey):
        return shown_curve(key.curve), (), _spki(key)
    if isinstance(key, rsa.RSAPublicKey):
        return f"RSA {key.key_size}", (), _spki(key)
    return "", (), None
