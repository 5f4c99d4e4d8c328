"""Making a key pair in a token: make room, generate, look it up; after a failure nothing of it stays."""

import logging
from collections.abc import Callable

import pkcs11
from cryptography.hazmat.primitives.asymmetric import ec
from pkcs11 import Attribute, ObjectClass
from pkcs11 import exceptions as p11

from hsm.errors import MixedHandlesError, ObjectConflictError, ObjectMissingError, TokenError
from hsm.keys import TokenPrivateKey, load_private_key
from hsm.objects import Found, found_again, objects_under
from hsm.ownership import destroy_ours, refuse_strangers
from hsm.slots import ObjectId
from hsm.templates import KEY_LABEL, generate_pair
from hsm.token import Token

PAIR = (ObjectClass.PRIVATE_KEY, ObjectClass.PUBLIC_KEY)

_log = logging.getLogger(__name__)


def make_pair(
    token: Token, object_id: ObjectId, curve: ec.EllipticCurve, check_not_in_use: Callable[[], None]
) -> TokenPrivateKey:
    """Replace our key pair by a new one. `check_not_in_use` raises if the id is in use; it is called before each step.

    Raises ObjectConflictError for another program's object, TokenError.
    """
    # The lock is held from the first look to the look at what was made.
    with token.session(f"look at the place of key {object_id}") as session:
        refuse_strangers(token, object_id, objects_under(token, session, object_id), KEY_LABEL)
        try:
            with token.session(f"make room for key {object_id}") as inner:
                destroy_ours(token, inner, object_id, PAIR, check_not_in_use)
            with token.session(f"generate key {object_id}") as inner:
                made = _made(token, inner, object_id, curve, check_not_in_use)
            found_after_making(token, object_id, made)
        except TokenError:
            _clean_up(token, object_id, check_not_in_use)
            raise
    # The token's word is not enough: there must be exactly one key of each kind.
    try:
        return load_private_key(token, object_id)
    except TokenError as error:
        _clean_up(token, object_id, check_not_in_use)
        if isinstance(error, (ObjectMissingError, ObjectConflictError)):
            raise TokenError(f"generated key {object_id}, but {error}") from error
        raise


def found_after_making(token: Token, object_id: ObjectId, made: Found) -> list[Found]:
    """List what is under the id now; again in the restarted module if it mixed up its objects."""

    def look(known: Found | None) -> list[Found]:
        with token.session(f"look at what was made under id {object_id}") as session:
            return found_again(token, session, object_id, known)

    try:
        return look(made)
    except MixedHandlesError as error:
        _log.info("%s", error)
        return look(None)


def _made(
    token: Token,
    session: pkcs11.Session,
    object_id: ObjectId,
    curve: ec.EllipticCurve,
    check_not_in_use: Callable[[], None],
) -> Found:
    """Make the pair if there is none now, with the second template after the one error that asks for it.

    Returns the private key without reading it.
    """
    for is_explicit in (False, True):
        check_not_in_use()
        found = found_again(token, session, object_id)
        refuse_strangers(token, object_id, found, KEY_LABEL)
        if any(each.kind in PAIR for each in found):
            raise TokenError(f"key {object_id} of token {token.label!r} is still there: it was not removed")
        try:
            with token.working("make a key"):
                private = generate_pair(session, object_id, curve, is_explicit=is_explicit)
            break
        except p11.TemplateInconsistent:
            if is_explicit:
                raise
    values = {Attribute.CLASS: ObjectClass.PRIVATE_KEY, Attribute.ID: bytes.fromhex(object_id)}
    return Found(private, values | {Attribute.LABEL: KEY_LABEL})


def _clean_up(token: Token, object_id: ObjectId, check_not_in_use: Callable[[], None]) -> None:
    """Remove what a failed generation left: it may have made a key."""
    for attempt in range(2):
        try:
            if attempt:
                token.reinitialize()
            with token.session(f"clean up key {object_id}") as session:
                found_again(token, session, object_id)
                destroy_ours(token, session, object_id, PAIR, check_not_in_use)
            return
        except TokenError as error:
            _log.warning("%s", error)
