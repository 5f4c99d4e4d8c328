"""What is in a token, for people: its objects with the attributes that matter, and the state of its PIN.

Changes nothing. Without a login a token shows certificates and public keys: enough to see which identity is in use.
"""

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pkcs11 import Attribute, ObjectClass
from pkcs11 import exceptions as p11
from pkcs11.constants import TokenFlag

from hsm import module as modules
from hsm.attributes import ALLOWED, TolerantMapper
from hsm.certificate import Certificate
from hsm.curves import public_key, shown_curve
from hsm.objects import Found, class_name, everything, seen
from hsm.token import Token
from hsm.translation import translated

_SHORT: dict[int, str] = {
    ObjectClass.PRIVATE_KEY: "private",
    ObjectClass.PUBLIC_KEY: "public",
    ObjectClass.CERTIFICATE: "cert",
}


class PinState(Enum):
    """The state of the user's PIN (PKCS#11 v2.40 §3.2, CK_TOKEN_INFO)."""

    GOOD = "good"
    LOW = "refused since the last login"
    FINAL = "one attempt left"
    LOCKED = "locked"
    MISSING = "not set"


_STATES = {
    TokenFlag.USER_PIN_LOCKED: PinState.LOCKED,
    TokenFlag.USER_PIN_FINAL_TRY: PinState.FINAL,
    TokenFlag.USER_PIN_COUNT_LOW: PinState.LOW,
    TokenFlag.USER_PIN_INITIALIZED: PinState.GOOD,
}
"""The first flag that is set counts."""


@dataclass(frozen=True)
class Item:
    """One object of a token."""

    kind: str
    """`private`, `public`, `cert`, or PKCS#11's name of the class."""
    id: str
    """The CKA_ID in hexadecimal: `01`; `-` if there is none."""
    label: str
    key_type: str
    """`P-256`, `P-384`, `RSA`, ..., also of a certificate's key; empty if there is none."""
    flags: tuple[str, ...]
    """Those of sign, derive, sensitive and extractable that are set on a private or secret key."""
    spki: bytes | None
    """The EC public key of a public key or certificate (DER)."""
    certificate: Certificate | None


def pin_state(module: str, label: str) -> PinState:
    """Ask the token with that label in a PKCS#11 module for the state of its PIN, without trying it.

    Raises hsm.errors.TokenError.
    """
    with modules.Calls():
        try:
            flags = modules.load(module).find(label).flags
        except p11.PKCS11Error as error:
            raise translated(error, "look", label) from error
    return next((state for flag, state in _STATES.items() if flags & flag), PinState.MISSING)


def public_items(module: str, label: str) -> list[Item]:
    """List what that token shows without its PIN: no private keys. Raises hsm.errors.TokenError."""
    with modules.Calls():
        try:
            found = modules.load(module).find(label)
            with contextlib.closing(found.open(attribute_mapper=TolerantMapper())) as session:
                return _listed(everything(session))
        except p11.PKCS11Error as error:
            raise translated(error, "list the objects", label) from error


def items(token: Token) -> list[Item]:
    """List everything in a token, logged in. Raises hsm.errors.TokenError."""
    with token.session("list the objects") as session:
        return _listed(seen(token, session))


def _listed(found: Iterable[Found]) -> list[Item]:
    return sorted(map(_item, found), key=lambda item: (item.id, item.kind, item.label))


def _item(found: Found) -> Item:
    certificate = key = None
    with contextlib.suppress(ValueError):
        if found.kind == ObjectClass.CERTIFICATE:
            certificate = Certificate.read(found.value)
            key = certificate.ec_key()
        elif found.kind == ObjectClass.PUBLIC_KEY and found.curve:
            key = public_key(found.curve, found.values.get(Attribute.EC_POINT, b""))
    if certificate:
        key_type = shown_curve(key.curve) if key else certificate.kind_of_key
    elif found.curve:
        key_type = shown_curve(found.curve)
    else:
        kind = found.values.get(Attribute.KEY_TYPE, "")
        key_type = str(getattr(kind, "name", kind)).replace("_", " ")
    return Item(
        kind=_SHORT.get(found.kind) or class_name(found.kind),
        id=found.id or "-",
        label=found.label,
        key_type=key_type,
        flags=tuple(each.name.lower() for each in ALLOWED if found.values.get(each)),
        spki=key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) if key else None,
        certificate=certificate,
    )
