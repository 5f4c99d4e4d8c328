"""An id of a token where a rotation makes a key pair or a certificate: whose objects are there, and replacing ours.

Labels and attributes are those of lmp-device-register. Only objects with our labels are ever destroyed. Another process
may have changed the token meanwhile, and OP-TEE gives a destroyed object's handle to the next one: so each object, and
which ids are in use, is checked again just before it is destroyed.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import pkcs11
from cryptography.hazmat.primitives.asymmetric import ec
from pkcs11 import Attribute, CertificateType, KeyType, Mechanism, ObjectClass
from pkcs11 import exceptions as p11
from pkcs11.constants import DEFAULT, MechanismFlag

from hsm.attributes import DESTROYABLE, Values
from hsm.certificate import Certificate
from hsm.curves import EC_PARAMS
from hsm.errors import MixedHandlesError, ObjectConflictError, ObjectMissingError, TokenError
from hsm.keys import TokenPrivateKey, load_private_key
from hsm.objects import Found, check_unchanged, class_name, found_again, objects_under, seen
from hsm.slots import IdentityNames, ObjectId
from hsm.token import Token

KEY_LABEL, CERTIFICATE_LABEL = "tls", "client"
_PAIR = (ObjectClass.PRIVATE_KEY, ObjectClass.PUBLIC_KEY)
_LABELS: dict[int, str] = {**dict.fromkeys(_PAIR, KEY_LABEL), ObjectClass.CERTIFICATE: CERTIFICATE_LABEL}

_log = logging.getLogger(__name__)


class Place:
    """An id for a key pair or a certificate, a subclass each. `in_use` returns the names of what is never destroyed.

    Methods raise hsm.errors.TokenError: ObjectConflictError for another program's object, or an id in use.
    """

    what: str
    index: int
    """Which of the ids of an identity is here."""
    label: str
    classes: tuple[ObjectClass, ...]

    def __init__(self, token: Token, object_id: ObjectId, in_use: Callable[[], IdentityNames] | None) -> None:
        self.token = token
        self.id = object_id
        self._in_use = in_use

    def check_not_in_use(self) -> None:
        """Raise ObjectConflictError if the identity in use is here. It is asked each time: it may change."""
        if self._in_use is not None and self._in_use().ids[self.index] == self.id:
            raise ObjectConflictError(f"{self.what} {self.id} of token {self.token.label!r} is in use: left as it is")

    def refuse_strangers(self, found: Sequence[Found]) -> None:
        """Raise ObjectConflictError for an object here that is not ours by type and label, or stays."""
        for each in found:
            name = f"{class_name(each.kind)}{each.strange_type} labelled {each.label!r}"
            what = f"token {self.token.label!r} has a {name} under id {self.id}"
            if each.strange_type or each.label not in {self.label, _LABELS.get(each.kind)}:
                raise ObjectConflictError(
                    f"{what}, expected nothing there, or what a rotation made (EC, label {self.label!r}): "
                    "have the request name another id, or remove that object"
                )
            if each.values.get(DESTROYABLE) is False:
                raise ObjectConflictError(
                    f"{what} that it does not let go (CKA_DESTROYABLE is false): have the request name another id"
                )

    def destroy_ours(self, session: pkcs11.Session) -> None:
        """Destroy what a rotation made here: any number of pairs may be leftovers of failed attempts."""
        for object_class in self.classes:
            for each in objects_under(self.token, session, self.id, object_class):
                if not each.strange_type and each.label == self.label:
                    check_unchanged(self.token, each)
                    self.check_not_in_use()
                    each.item.destroy()
                    self.token.changed([other for other in seen(self.token, session) if other is not each])

    def _found_after_making(self, item: Any, value: bytes = b"") -> list[Found]:  # noqa: ANN401 - as pkcs11 makes them
        """List what is here after `item` was made; again in the restarted module if it mixed up its objects."""
        values = {Attribute.CLASS: self.classes[0], Attribute.ID: bytes.fromhex(self.id)}
        values |= {Attribute.LABEL: self.label, Attribute.VALUE: value}
        looking = f"look at what was made under id {self.id}"
        try:
            with self.token.session(looking) as session:
                return found_again(self.token, session, self.id, Found(item, values))
        except MixedHandlesError as error:
            _log.info("%s", error)
        with self.token.session(looking) as session:
            return found_again(self.token, session, self.id)


class KeyPlace(Place):
    """An id for a key pair."""

    what, index, label, classes = "key", 0, KEY_LABEL, _PAIR

    def make_pair(self, curve: ec.EllipticCurve) -> TokenPrivateKey:
        """Replace our key pair by a new one. After a failure nothing of it stays."""
        token = self.token
        # The lock is held from the first look to the look at what was made.
        with token.session(f"look at the place of key {self.id}") as session:
            self.refuse_strangers(objects_under(token, session, self.id))
            try:
                with token.session(f"make room for key {self.id}") as inner:
                    self.destroy_ours(inner)
                with token.session(f"generate key {self.id}") as inner:
                    private = self._generated(inner, curve)
                self._found_after_making(private)
            except TokenError:
                self._clean_up()
                raise
        # The token's word is not enough: there must be exactly one key of each kind.
        try:
            return load_private_key(token, self.id)
        except TokenError as error:
            self._clean_up()
            if isinstance(error, (ObjectMissingError, ObjectConflictError)):
                raise TokenError(f"generated key {self.id}, but {error}") from error
            raise

    def _generated(self, session: pkcs11.Session, curve: ec.EllipticCurve) -> Any:  # noqa: ANN401
        """Make the pair if there is none now, with the second template after the one error that asks for it.

        Some secure elements want class and curve in the private template too, which others refuse.
        """
        parameters = {Attribute.EC_PARAMS: EC_PARAMS[curve.name]}
        try:
            return self._generate_pair(session, parameters, {})
        except p11.TemplateInconsistent:
            return self._generate_pair(session, parameters, {Attribute.CLASS: ObjectClass.PRIVATE_KEY, **parameters})

    def _generate_pair(self, session: pkcs11.Session, public: Values, private: Values) -> Any:  # noqa: ANN401
        """Make the pair as lmp-device-register does; return the private key. tpm2-pkcs11 refuses further attributes."""
        self.check_not_in_use()
        found = found_again(self.token, session, self.id)
        self.refuse_strangers(found)
        if any(each.kind in self.classes for each in found):
            raise TokenError(f"key {self.id} of token {self.token.label!r} is still there: it was not removed")
        left_out = dict.fromkeys((Attribute.ENCRYPT, Attribute.WRAP, Attribute.DECRYPT, Attribute.UNWRAP), DEFAULT)
        with self.token.working("make a key"):
            _, key = session.generate_keypair(
                KeyType.EC,
                id=bytes.fromhex(self.id),
                label=self.label,
                store=True,
                mechanism=Mechanism.EC_KEY_PAIR_GEN,
                capabilities=MechanismFlag.SIGN | MechanismFlag.VERIFY | MechanismFlag.DERIVE,
                public_template={Attribute.PRIVATE: False, **left_out, **public},
                private_template={Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False, **left_out, **private},
            )
        return key

    def _clean_up(self) -> None:
        """Remove what a failed generation left: it may have made a key."""
        for attempt in range(2):
            try:
                if attempt:
                    self.token.reinitialize()
                with self.token.session(f"clean up key {self.id}") as session:
                    found_again(self.token, session, self.id)
                    self.destroy_ours(session)
                return
            except TokenError as error:
                _log.warning("%s", error)


class CertificatePlace(Place):
    """An id for a certificate."""

    what, index, label = "certificate", 1, CERTIFICATE_LABEL
    classes = (ObjectClass.CERTIFICATE,)

    def store(self, certificate: Certificate) -> None:
        """Replace our certificate, unless it is there already."""
        token, der = self.token, certificate.der
        with token.session(f"store certificate {self.id}") as session:
            found = objects_under(token, session, self.id)
            self.refuse_strangers(found)
            present = [each for each in found if each.kind == ObjectClass.CERTIFICATE]
            if [(each.value, each.label) for each in present] == [(der, self.label)]:
                return
            self.check_not_in_use()
            self.destroy_ours(session)
            item = self._create(session, certificate)
        found = self._found_after_making(item, der)
        stored = [each.value for each in found if each.kind == ObjectClass.CERTIFICATE]
        if stored != [der]:
            raise TokenError(
                f"stored certificate {self.id} in token {token.label!r}, but found {len(stored)} there, "
                "not exactly that one: try again, and check the token if that persists"
            )

    def _create(self, session: pkcs11.Session, certificate: Certificate) -> Any:  # noqa: ANN401
        """Create the object (PKCS#11 v2.40 §4.6.3), without issuer and serial number if the token refuses them."""
        attributes: dict[Attribute, Any] = {
            Attribute.CLASS: ObjectClass.CERTIFICATE,
            Attribute.CERTIFICATE_TYPE: CertificateType.X_509,
            Attribute.TOKEN: True,
            Attribute.PRIVATE: False,
            Attribute.ID: bytes.fromhex(self.id),
            Attribute.LABEL: self.label,
            Attribute.SUBJECT: certificate.subject,
            Attribute.VALUE: certificate.der,
        }
        optional = {Attribute.ISSUER: certificate.issuer, Attribute.SERIAL_NUMBER: certificate.serial_number.encoded}
        try:
            return session.create_object(attributes | optional)
        except (p11.AttributeTypeInvalid, p11.AttributeValueInvalid, p11.TemplateInconsistent):
            return session.create_object(attributes)
