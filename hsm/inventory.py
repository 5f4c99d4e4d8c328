"""What is in a token, for people: its objects with the attributes that matter, and the state of its PIN.

Changes nothing. Without a login a token shows certificates and public keys: enough to see which identity is in use.
"""

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pkcs11 import Attribute, KeyType, ObjectClass
from pkcs11 import exceptions as p11
from pkcs11.constants import TokenFlag

from hsm import module as modules
from hsm.attributes import TolerantMapper, Values
from hsm.certificate import Certificate
from hsm.curves import curve_of, public_key, shown_curve
from hsm.objects import Found, class_name, everything, seen
from hsm.token import Token
from hsm.translation import translated

_SHORT = {ObjectClass.PRIVATE_KEY: "private", ObjectClass.PUBLIC_KEY: "public", ObjectClass.CERTIFICATE: "cert"}
_MATTER = {
    "sign": Attribute.SIGN,
    "derive": Attribute.DERIVE,
    "sensitive": Attribute.SENSITIVE,
    "extractable": Attribute.EXTRACTABLE,
}


class PinState(Enum):
    """The state of the user's PIN (PKCS#11 v2.40 §3.2, CK_TOKEN_INFO)."""

    GOOD = "good"
    LOW = "refused since the last login"
    FINAL = "one attempt left"
    LOCKED = "locked"
    MISSING = "not set"


@dataclass(frozen=True)
class Item:
    """One object of a token."""

    kind: str
    """`private`, `public`, `cert`, or PKCS#11's name of the class."""
    id: str
    """The CKA_ID in hexadecimal: `01`; `-` if there is none."""
    label: str
    key_type: str
    """`P-256`, `P-384`, `RSA 2048`, ..., also of a certificate's key; empty if there is none."""
    flags: tuple[str, ...] = ()
    """Those of sign, derive, sensitive and extractable that are set on a private or secret key."""
    spki: bytes | None = None
    """The public key of a public key or certificate (DER), if its kind is known."""
    certificate: Certificate | None = None


class Inventory:
    """The token with that label in a PKCS#11 module. All methods raise hsm.errors.TokenError."""

    def __init__(self, module: str, label: str) -> None:
        self._module = module
        self._label = label

    def pin_state(self) -> PinState:
        """Ask the token for the state of its PIN, without trying it."""
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
        """List what the token shows without its PIN: no private keys."""
        with modules.Calls():
            try:
                found = modules.load(self._module).find(self._label)
                with contextlib.closing(found.open(attribute_mapper=TolerantMapper())) as session:
                    return _listed(everything(session))
            except p11.PKCS11Error as error:
                raise translated(error, "list the objects", self._label) from error


def items(token: Token) -> list[Item]:
    """List everything in a token, logged in. Raises hsm.errors.TokenError."""
    with token.session("list the objects") as session:
        return _listed(seen(token, session))


def _listed(found: Iterable[Found]) -> list[Item]:
    return sorted(map(_item, found), key=lambda item: (item.id, item.kind, item.label))


def _item(found: Found) -> Item:
    kind, values = found.kind, found.values
    name = (_SHORT.get(kind) if isinstance(kind, ObjectClass) else None) or class_name(kind)
    key_type, spki, certificate = "", None, None
    flags: tuple[str, ...] = ()
    if kind is ObjectClass.CERTIFICATE:
        with contextlib.suppress(ValueError):
            certificate = Certificate.read(found.value)
            key = certificate.public_key()
            if isinstance(key, ec.EllipticCurvePublicKey):
                key_type, spki = shown_curve(key.curve), _spki(key)
            elif isinstance(key, rsa.RSAPublicKey):
                key_type, spki = f"RSA {key.key_size}", _spki(key)
    elif kind is ObjectClass.PUBLIC_KEY:
        key_type, spki = _key_type(values), _spki(_public_key(values))
    elif kind in (ObjectClass.PRIVATE_KEY, ObjectClass.SECRET_KEY):
        key_type = _key_type(values)
        flags = tuple(word for word, attribute in _MATTER.items() if values.get(attribute))
    return Item(name, found.id or "-", found.label, key_type, flags, spki, certificate)


def _key_type(values: Values) -> str:
    kind = values.get(Attribute.KEY_TYPE)
    if kind == KeyType.EC:
        curve = curve_of(values.get(Attribute.EC_PARAMS, b""))
        return shown_curve(curve) if curve else "EC"
    if kind == KeyType.RSA:
        modulus = values.get(Attribute.MODULUS)
        return f"RSA {int.from_bytes(modulus).bit_length()}" if modulus else "RSA"
    return str(getattr(kind, "name", kind or "")).replace("_", " ")


def _public_key(values: Values) -> ec.EllipticCurvePublicKey | rsa.RSAPublicKey | None:
    kind = values.get(Attribute.KEY_TYPE)
    with contextlib.suppress(ValueError, TypeError):
        if kind == KeyType.EC:
            curve = curve_of(values.get(Attribute.EC_PARAMS, b""))
            return public_key(curve, values.get(Attribute.EC_POINT, b"")) if curve else None
        if kind == KeyType.RSA:
            exponent, modulus = values.get(Attribute.PUBLIC_EXPONENT, b""), values.get(Attribute.MODULUS, b"")
            return rsa.RSAPublicNumbers(int.from_bytes(exponent), int.from_bytes(modulus)).public_key()
    return None


def _spki(key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey | None) -> bytes | None:
    return None if key is None else key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
