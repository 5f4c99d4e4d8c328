"""Who owns an object under one of our ids: a rotation's have our label, and only those are ever destroyed."""

from collections.abc import Callable, Iterable, Sequence

import pkcs11
from pkcs11 import ObjectClass

from hsm.attributes import DESTROYABLE, WHOSE, read
from hsm.errors import ObjectConflictError, TokenError
from hsm.objects import Found, class_name, labels, objects_under, seen
from hsm.slots import ObjectId
from hsm.templates import CERTIFICATE_LABEL, KEY_LABEL
from hsm.token import Token

OWN_LABELS: dict[int, str] = {
    ObjectClass.PRIVATE_KEY: KEY_LABEL,
    ObjectClass.PUBLIC_KEY: KEY_LABEL,
    ObjectClass.CERTIFICATE: CERTIFICATE_LABEL,
}


def refuse_strangers(token: Token, object_id: ObjectId, found: Sequence[Found], place_label: str) -> None:
    """Raise ObjectConflictError for an object under the id that is not ours by type and label, or stays.

    Any number of pairs that are all labelled as ours are leftovers of failed attempts, which may go.
    """
    expected = f"expected nothing there, or what a rotation made (EC, label {place_label!r}): "
    privates = [each for each in found if each.kind == ObjectClass.PRIVATE_KEY]
    if len(privates) > 1 and {each.label for each in privates} != {place_label}:
        raise ObjectConflictError(
            f"token {token.label!r} has {len(privates)} private keys under id {object_id}, labelled "
            f"{labels(privates)}, {expected}have the request name another id, or remove what does not belong there"
        )
    for each in found:
        name = f"{class_name(each.kind)}{each.strange_type} labelled {each.label!r}"
        what = f"token {token.label!r} has a {name} under id {object_id}"
        if each.strange_type or each.label not in {place_label, OWN_LABELS.get(each.kind)}:
            raise ObjectConflictError(f"{what}, {expected}have the request name another id, or remove that object")
        if each.values.get(DESTROYABLE) is False:
            raise ObjectConflictError(
                f"{what} that it does not let go (CKA_DESTROYABLE is false): have the request name another id"
            )


def check_unchanged(token: Token, found: Found) -> None:
    """Read again what an object is. Raises TokenError if it has changed."""
    now = Found(found.item, read(found.item, WHOSE))
    if (now.kind, now.id, now.label) != (found.kind, found.id, found.label):
        token.objects_changed()
        raise TokenError(
            f"token {token.label!r} was changed by another program: {class_name(found.kind)} {found.id} is "
            "no longer the same; try again"
        )


def destroy_ours(
    token: Token,
    session: pkcs11.Session,
    object_id: ObjectId,
    classes: Iterable[ObjectClass],
    check_not_in_use: Callable[[], None],
) -> None:
    """Destroy what a rotation made of those classes under the id.

    Another process may have changed the token meanwhile, and OP-TEE gives a destroyed object's handle to the next one:
    so each object, and which ids are in use, is checked again just before it is destroyed.
    """
    for object_class in classes:
        for each in objects_under(token, session, object_id, object_class):
            if each.strange_type or each.label != OWN_LABELS[object_class]:
                continue
            check_unchanged(token, each)
            check_not_in_use()
            each.item.destroy()
            token.changed([other for other in seen(token, session) if other is not each])
