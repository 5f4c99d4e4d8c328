"""What is in a token: looked up once, with one search.

`seen` is that look. It is kept (Token.seen) until another program may have changed the token: a new session, a restart
of the module, a while without any use. Changes made here update it (`found_again`, hsm.place). It decides what is
used, never what is destroyed: such an object is read again just before.
"""

import logging
from collections.abc import Callable
from typing import Any, TypeVar

import pkcs11
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pkcs11 import Attribute, KeyType, ObjectClass
from pkcs11 import exceptions as p11

from hsm.attributes import OF_CLASS, WHOSE, Values, read
from hsm.certificate import Certificate
from hsm.curves import CURVES, EC_PARAMS, public_key
from hsm.errors import MixedHandlesError, ObjectConflictError, ObjectMissingError, TokenError, UnsupportedError
from hsm.slots import ObjectId
from hsm.token import Token

T = TypeVar("T")
_AT_ONCE = 64
"""Objects that one C_FindObjects gives at most."""
_READABLE: tuple[Values, ...] = (
    *({Attribute.ID: bytes([each])} for each in range(1, 10)),
    *({Attribute.CLASS: each} for each in (*OF_CLASS, ObjectClass.DATA)),
)
"""Searches that together find all that matters, in many more calls than one search for everything."""

_log = logging.getLogger(__name__)


class Found:
    """An object of a token: `item` is python-pkcs11's, `values` was read of it."""

    def __init__(self, item: Any, values: Values) -> None:  # noqa: ANN401 - pkcs11 makes its classes as it runs
        self.item = item
        self.values = values
        self.kind: ObjectClass | int = values.get(Attribute.CLASS, -1)
        """The class; a number for a vendor's own; -1 for a half-written object, which has none."""
        self.id = bytes(values.get(Attribute.ID, b"")).hex()
        """The id in hexadecimal; empty if there is none."""
        self.label = str(values.get(Attribute.LABEL, ""))
        """The label; objects need not have one."""
        self.value = bytes(values.get(Attribute.VALUE, b""))
        """What a certificate object holds."""
        key_type = values.get(Attribute.KEY_TYPE, KeyType.EC)
        self.strange_type = "" if key_type == KeyType.EC else f" of type {getattr(key_type, 'name', key_type)}"
        """" of type RSA" for a key that no rotation makes; else an empty text."""
        self.curve = None if self.strange_type else CURVES.get(values.get(Attribute.EC_PARAMS, b""))
        """That of a key on P-256 or P-384."""


def search(session: pkcs11.Session, template: Values | None = None, looks: int = 3) -> list[Any]:
    """List the objects that fit; again if another program destroyed one just now."""
    try:
        # A list at once: a search that is half read blocks the next one.
        return list(session.get_objects(template, batch_size=_AT_ONCE))  # type: ignore[call-arg]  # not in its stubs
    except p11.ObjectHandleInvalid:
        if looks == 1:
            raise
        return search(session, template, looks - 1)


def everything(session: pkcs11.Session) -> list[Found]:
    """List all objects that the session may see."""
    try:
        items = search(session)
    except p11.AttributeValueInvalid as error:
        # A killed program left an object half written: it has no class and no id, so no other search finds it.
        _log.info("An object of token %r cannot be read (%s): ignored.", session.token.label, type(error).__name__)
        items = list({item.handle: item for each in _READABLE for item in search(session, each)}.values())
    return [Found(item, read(item)) for item in items]


def seen(token: Token, session: pkcs11.Session) -> list[Found]:
    """Return everything in the token, as seen last. Raises MixedHandlesError."""
    if token.seen is None:
        found = everything(session)
        if len({each.item.handle for each in found}) < len(found):
            raise MixedHandlesError(f"token {token.label!r} gives one object twice: try again")
        token.seen = found
    return token.seen


def objects_under(
    token: Token, session: pkcs11.Session, object_id: ObjectId, object_class: ObjectClass | None = None
) -> list[Found]:
    """List the objects that were seen under an id, of one class or of all."""
    return [each for each in seen(token, session) if each.id == object_id and object_class in (None, each.kind)]


def found_again(token: Token, session: pkcs11.Session, object_id: ObjectId, made: Found | None = None) -> list[Found]:
    """List the objects that are under an id now, and update the look. `made`: one that was made just now.

    tpm2-pkcs11 1.9 gives a new object the handle of another one, if any was destroyed since the module was started:
    what is found under id 03 is then read, used and destroyed as 09. Raises MixedHandlesError.
    """
    others = [each for each in seen(token, session) if each.id != object_id]
    items = search(session, {Attribute.ID: bytes.fromhex(object_id)})
    found = [made if made and made.item.handle == item.handle else Found(item, read(item)) for item in items]
    handles = {each.item.handle for each in others}
    if any(each.id != object_id or each.item.handle in handles for each in found):
        what = f"another object than the one under id {object_id}"
        raise MixedHandlesError(f"token {token.label!r} gives {what}: try again")
    token.changed(others + found)
    return found


def believed(token: Token, look: Callable[[], T]) -> T:
    """Look, and look again in the restarted module before believing that an object is missing.

    In a token that was removed SoftHSM finds nothing, without any error, even once it is back. Do not call this while a
    session of the token is in use. An object that was missing twice is believed missing until something is made here:
    card readers do not take many restarts. Raises TokenAbsentError if the token itself is missing.
    """
    try:
        return look()
    except ObjectMissingError as error:
        if str(error) in token.missing:
            raise
        _log.info("%s", error)
    token.reinitialize()
    try:
        return look()
    except ObjectMissingError as error:
        token.missing.add(str(error))
        raise


def the_object(token: Token, session: pkcs11.Session, object_class: ObjectClass, object_id: ObjectId) -> Found:
    """Return the only object of a class under an id. Raises ObjectMissingError, ObjectConflictError."""
    objects = objects_under(token, session, object_id, object_class)
    if len(objects) == 1:
        return objects[0]
    what = f"{class_name(object_class)} {object_id} in token {token.label!r}"
    if not objects:
        raise ObjectMissingError(f"there is no {what}: correct the id in sota.toml, or register the device again")
    labels = " and ".join(repr(each.label) for each in objects)
    raise ObjectConflictError(
        f"expected one {what}, found {len(objects)}, labelled {labels}: remove what does not belong there"
    )


def check_unchanged(token: Token, found: Found) -> None:
    """Read again what an object is. Raises TokenError if it has changed."""
    now = Found(found.item, read(found.item, WHOSE))
    if (now.kind, now.id, now.label) != (found.kind, found.id, found.label):
        token.changed()
        raise TokenError(
            f"token {token.label!r} was changed by another program: {class_name(found.kind)} {found.id} is "
            "no longer the same; try again"
        )


def class_name(object_class: ObjectClass | int) -> str:
    """Name a class for a message: "private key"."""
    if isinstance(object_class, ObjectClass):
        return object_class.name.lower().replace("_", " ")
    return "object without a class" if object_class < 0 else f"object of class {object_class:#x}"


def public_key_under(token: Token, session: pkcs11.Session, object_id: ObjectId) -> ec.EllipticCurvePublicKey:
    """Read the public key under an id. Raises ObjectMissingError, ObjectConflictError, UnsupportedError."""
    public = the_object(token, session, ObjectClass.PUBLIC_KEY, object_id)
    if public.curve is None:
        raise UnsupportedError(
            f"key {object_id} of token {token.label!r} is{public.strange_type or ' on another curve'}: expected EC, "
            "P-256 or P-384; register the device again"
        )
    try:
        return public_key(public.curve, public.values.get(Attribute.EC_POINT, b""))
    except ValueError as error:
        raise UnsupportedError(
            f"key {object_id} of token {token.label!r} has no readable public point: register the device again"
        ) from error


def public_keys_of_certificates(token: Token, session: pkcs11.Session) -> list[ec.EllipticCurvePublicKey]:
    """Return the public keys that certificates of the token hold without a public key object."""
    found: list[ec.EllipticCurvePublicKey] = []
    points = [bytes(each.values.get(Attribute.EC_POINT, b"")) for each in seen(token, session)]
    for each in seen(token, session):
        try:
            key = Certificate.read(each.value).ec_key()
        except ValueError:
            continue
        if key is not None and key.curve.name in EC_PARAMS and key not in found:
            point = key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
            if not any(held.endswith(point) for held in points):
                found.append(key)
    return found
