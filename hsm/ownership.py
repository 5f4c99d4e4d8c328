"""Whose an object under one of our ids is: what a rotation made has our label, and only that is ever destroyed."""

from collections.abc import Iterable

import pkcs11
from pkcs11 import ObjectClass

from hsm.errors import ObjectConflictError
from hsm.objects import class_name, class_of, label_of, labels, objects_under
from hsm.slots import ObjectId
from hsm.templates import CERTIFICATE_LABEL, KEY_LABEL
from hsm.token import Token

OWN_LABELS = {
    ObjectClass.PRIVATE_KEY: KEY_LABEL,
    ObjectClass.PUBLIC_KEY: KEY_LABEL,
    ObjectClass.CERTIFICATE: CERTIFICATE_LABEL,
}


def refuse_strangers(token: Token, session: pkcs11.Session, object_id: ObjectId, place_label: str) -> None:
    """Raise ObjectConflictError for an object of any class under the id that is not labelled as ours.

    Pairs that are all labelled as ours are left over from attempts that failed: they go, however many there are.
    """
    found = objects_under(session, object_id)
    privates = [item for item in found if class_of(item) == ObjectClass.PRIVATE_KEY]
    if len(privates) > 1 and {label_of(item) for item in privates} != {place_label}:
        raise ObjectConflictError(
            f"token {token.label!r} has {len(privates)} private keys under id {object_id}, labelled "
            f"{labels(privates)}, expected nothing there, or what a rotation made (label {place_label!r}): "
            "have the request name another id, or remove what does not belong there"
        )
    for item in found:
        kind, label = class_of(item), label_of(item)
        if label != place_label and (not isinstance(kind, ObjectClass) or label != OWN_LABELS.get(kind)):
            raise ObjectConflictError(
                f"token {token.label!r} has a {class_name(kind)} labelled {label!r} under id {object_id}, "
                f"expected nothing there, or what a rotation made (label {place_label!r}): "
                "have the request name another id, or remove that object"
            )


def destroy_ours(token: Token, session: pkcs11.Session, object_id: ObjectId, classes: Iterable[ObjectClass]) -> None:
    """Destroy what a rotation made of those classes under the id."""
    for object_class in classes:
        ours = [
            item
            for item in objects_under(session, object_id, object_class)
            if label_of(item) == OWN_LABELS[object_class]
        ]
        for item in ours:
            item.destroy()
            token.objects_changed()
