"""Finding objects in a token, and reading a public key there."""

import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import pkcs11
from cryptography.hazmat.primitives.asymmetric import ec
from pkcs11 import Attribute, KeyType, ObjectClass
from pkcs11 import exceptions as p11

from hsm.curves import curve_of, public_key
from hsm.errors import MixedHandlesError, ObjectConflictError, ObjectMissingError, UnsupportedError
from hsm.slots import ObjectId
from hsm.token import Token

T = TypeVar("T")

_log = logging.getLogger(__name__)


def objects_under(session: pkcs11.Session, object_id: ObjectId, object_class: ObjectClass | None = None) -> list[Any]:
    """List the objects under an id, of one class or of all. Raises MixedHandlesError.

    tpm2-pkcs11 1.9 gives a new object a handle that another one has, if any was destroyed since the module was started:
    what is found under id 03 is then read, used and destroyed as 09. Hence every object is asked who it is.
    """
    template: dict[Attribute, Any] = {Attribute.ID: object_id.cka_id}
    if object_class is not None:
        template[Attribute.CLASS] = object_class
    # A list at once: a search that is half read stands in the way of the next one.
    found = list(session.get_objects(template))
    for item in found:
        if item[Attribute.ID] != object_id.cka_id or object_class not in (None, class_of(item)):
            raise MixedHandlesError(
                f"token {session.token.label!r} gives another object than the one under id {object_id}: try again"
            )
    return found


def believed(token: Token, look: Callable[[], T]) -> T:
    """Look, and look again in a module started anew before it is believed that an object is missing.

    In a token that was taken away SoftHSM finds nothing, without any error, and still nothing once it is back. Not to
    be called while a session of the token is in use. Raises TokenAbsentError where the token is what is missing.
    """
    try:
        return look()
    except ObjectMissingError as error:
        _log.info("%s", error)
    token.reinitialize()
    return look()


def the_object(token: Token, session: pkcs11.Session, object_class: ObjectClass, object_id: ObjectId) -> Any:  # noqa: ANN401
    """Give the one object of a class under an id. Raises ObjectMissingError, ObjectConflictError naming all labels."""
    objects = objects_under(session, object_id, object_class)
    if len(objects) == 1:
        return objects[0]
    what = f"{class_name(object_class)} {object_id} in token {token.label!r}"
    if not objects:
        raise ObjectMissingError(f"there is no {what}: correct the id in sota.toml, or register the device anew")
    raise ObjectConflictError(
        f"expected one {what}, found {len(objects)}, labelled {labels(objects)}: remove what does not belong there"
    )


def class_of(item: Any) -> ObjectClass | int:  # noqa: ANN401 - pkcs11 makes its classes as it runs
    """Give an object's class; a vendor's own is a number, and one that was left half written has none: -1."""
    try:
        kind: ObjectClass | int = item[Attribute.CLASS]
    except p11.AttributeTypeInvalid:
        return -1
    return kind


def class_name(object_class: ObjectClass | int) -> str:
    """Name a class for a message: "private key"."""
    if isinstance(object_class, ObjectClass):
        return object_class.name.lower().replace("_", " ")
    return "object without a class" if object_class < 0 else f"object of class {object_class:#x}"


def labels(objects: Sequence[Any]) -> str:
    """Name the labels of objects, for a message."""
    return " and ".join(repr(label_of(item)) for item in objects)


def label_of(item: Any) -> str:  # noqa: ANN401 - pkcs11 makes its classes as it runs
    """Give an object's label; objects need not have one."""
    try:
        return str(item[Attribute.LABEL])
    except p11.AttributeTypeInvalid:
        return ""


def public_key_under(token: Token, session: pkcs11.Session, object_id: ObjectId) -> ec.EllipticCurvePublicKey:
    """Read the public key under an id. Raises ObjectMissingError, ObjectConflictError, UnsupportedError."""
    public = the_object(token, session, ObjectClass.PUBLIC_KEY, object_id)
    kind = public[Attribute.KEY_TYPE]
    curve = curve_of(public[Attribute.EC_PARAMS]) if kind == KeyType.EC else None
    if curve is None:
        name = "on another curve" if kind == KeyType.EC else f"of type {getattr(kind, 'name', kind)}"
        raise UnsupportedError(
            f"key {object_id} of token {token.label!r} is {name}: expected EC, P-256 or P-384; register the device anew"
        )
    try:
        return public_key(curve, public[Attribute.EC_POINT])
    except ValueError as error:
        raise UnsupportedError(f"key {object_id} of token {token.label!r} has no readable public point") from error
