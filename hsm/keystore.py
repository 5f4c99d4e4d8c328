"""The key store in a token: two slots for key pairs, two for certificates, used in turn.

What is ours, and what happens to it:

- A key pair is made under the id of PKEYIDS that is not in use, labelled `tls`; its certificate goes under the id of
  CERTIDS that is not in use, labelled `client`: as lmp-device-register labels them.
- Only a private or public key labelled `tls` under a key id, and a certificate labelled `client` under a certificate
  id, are ever destroyed, and never under an id in use. Anything else under a chosen id belongs to somebody: refused.
- Destroy before create: the memory of a secure element is finite, and a retry must not leak a key.
- The old identity stays in its slots until the next rotation needs them.
"""

import logging
import ssl
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import pkcs11
from cryptography.hazmat.primitives.asymmetric import ec
from pkcs11 import Attribute, ObjectClass

from hsm import tls
from hsm.certificate import Certificate
from hsm.curves import EC_PARAMS
from hsm.errors import (
    ObjectConflictError,
    ObjectMissingError,
    TokenAbsentError,
    TokenError,
    UnsupportedError,
)
from hsm.generation import PAIR, found_after_making, make_pair
from hsm.keys import TokenPrivateKey, load_private_key
from hsm.names import N, Names, id_of, ids_of, with_ids
from hsm.objects import Found, believed, labels, objects_under, the_object
from hsm.ownership import check_unchanged, destroy_ours, refuse_strangers
from hsm.slots import ObjectId, alternate
from hsm.templates import CERTIFICATE_LABEL, KEY_LABEL, create_certificate
from hsm.token import Token

_CERTIFICATE = (ObjectClass.CERTIFICATE,)

_log = logging.getLogger(__name__)


T = TypeVar("T")


class TokenKeyStore:
    """The identities in a token. All methods raise hsm.errors.TokenError and its subclasses.

    `delays` are the seconds before each further attempt at a change, `wait` is what waits. `in_use` tells the ids whose
    objects must not be destroyed; it is asked each time before any is.
    """

    sota_keys = ("p11.tls_pkey_id", "p11.tls_clientcert_id")

    def __init__(
        self,
        token: Token,
        key_ids: Sequence[ObjectId],
        certificate_ids: Sequence[ObjectId],
        *,
        in_use: Callable[[], Names] | None = None,
        delays: Sequence[float] = (0.5, 2.0, 5.0),
        wait: Callable[[float], object] | None = None,
    ) -> None:
        self._token = token
        self._key_ids = key_ids
        self._certificate_ids = certificate_ids
        self._in_use = in_use
        self._delays = delays
        self._wait = threading.Event().wait if wait is None else wait

    def canonical(self, names: N) -> N:
        """Give the ids with two digits. Raises UnsupportedError for anything but 01 to 09."""
        return with_ids(names, *ids_of(names))

    def unused(self, current: N) -> N:
        """Choose the ids that are not in use, by value, and check that what is there is ours. Changes nothing.

        Raises ObjectConflictError: an object of somebody else is there, or the key in use is ambiguous.
        """
        current_key, current_certificate = ids_of(current)
        try:
            key = alternate(self._key_ids, current_key)
            certificate = alternate(self._certificate_ids, current_certificate)
        except ValueError as error:
            raise ObjectConflictError(str(error)) from error
        with self._token.session("look at the free slots") as session:
            privates = objects_under(self._token, session, current_key, ObjectClass.PRIVATE_KEY)
            if len(privates) > 1:
                raise ObjectConflictError(
                    f"token {self._token.label!r} has {len(privates)} private keys {current_key}, labelled "
                    f"{labels(privates)}: expected the one in use; remove what does not belong there"
                )
            for object_id, label in ((key, KEY_LABEL), (certificate, CERTIFICATE_LABEL)):
                refuse_strangers(self._token, object_id, objects_under(self._token, session, object_id), label)
        return with_ids(current, key, certificate)

    def key(self, name: str) -> TokenPrivateKey:
        """Load a private key, which stays in the token."""
        return load_private_key(self._token, id_of(name))

    def find_key(self, name: str) -> TokenPrivateKey | None:
        """Load a private key if there is exactly one whole pair, tried with a signature; else None."""
        try:
            key = self.key(name)
        except (ObjectMissingError, ObjectConflictError):
            return None
        # Two halves of different pairs may be left where a generation was cut off.
        if not key.is_pair():
            _log.warning("Private and public key %s in token %r do not belong together.", name, self._token.label)
            return None
        return key

    def certificate(self, name: str) -> Certificate:
        """Load a certificate."""
        object_id = id_of(name)
        der = believed(self._token, lambda: self._the_certificate(object_id))
        try:
            return Certificate.read(der)
        except ValueError as error:
            raise ObjectConflictError(
                f"certificate {object_id} in token {self._token.label!r} is no X.509 certificate ({error}): remove it"
            ) from error

    def _the_certificate(self, object_id: ObjectId) -> bytes:
        with self._token.session(f"read certificate {object_id}") as session:
            return the_object(self._token, session, ObjectClass.CERTIFICATE, object_id).value

    def generate(self, name: str, curve: ec.EllipticCurve) -> TokenPrivateKey:
        """Make a key pair after destroying what is ours under that id; tried again while the token is busy.

        Raises ObjectConflictError for an id in use or with somebody else's object, UnsupportedError for another curve
        than P-256 and P-384, TokenError.
        """
        object_id = id_of(name)
        if curve.name not in EC_PARAMS:
            raise UnsupportedError(f"expected a key on {' or '.join(EC_PARAMS)}, not on {curve.name}")
        self._refuse_in_use(object_id, 0)
        check_not_in_use = partial(self._refuse_in_use, object_id, 0)
        return self._patiently(lambda: make_pair(self._token, object_id, curve, check_not_in_use), while_absent=True)

    def _patiently(self, change: Callable[[], T], *, while_absent: bool) -> T:
        """Change the token, again where that failed and may pass: another program may be writing to it."""

        def change_again() -> T:
            # tpm2-pkcs11 keeps a transient object of every generation; only a new start frees them.
            self._token.reinitialize()
            return change()

        attempt = change
        for delay in self._delays:
            try:
                return attempt()
            except TokenError as error:
                if error.final or (isinstance(error, TokenAbsentError) and not while_absent):
                    raise
                _log.warning("%s; tried again in %g s.", error, delay)
            self._wait(delay)
            attempt = change_again
        return attempt()

    def store_certificate(self, name: str, certificate: Certificate) -> None:
        """Store a certificate in the place of ours under that id; nothing to do if it is there already.

        Tried again while the token is busy, as in generate().
        """
        object_id = id_of(name)
        self._patiently(lambda: self._store_once(object_id, certificate), while_absent=False)

    def _store_once(self, object_id: ObjectId, certificate: Certificate) -> None:
        der = certificate.der
        with self._token.session(f"store certificate {object_id}") as session:
            found = objects_under(self._token, session, object_id)
            refuse_strangers(self._token, object_id, found, CERTIFICATE_LABEL)
            present = [each for each in found if each.kind == ObjectClass.CERTIFICATE]
            if [(each.value, each.label) for each in present] == [(der, CERTIFICATE_LABEL)]:
                return
            self._refuse_in_use(object_id, 1)
            self._destroy(session, object_id, _CERTIFICATE, 1)
            item = create_certificate(session, object_id, certificate)
        values = {Attribute.CLASS: ObjectClass.CERTIFICATE, Attribute.ID: object_id.cka_id}
        values |= {Attribute.LABEL: CERTIFICATE_LABEL, Attribute.VALUE: der}
        found = found_after_making(self._token, object_id, Found(item, values))
        stored = [each.value for each in found if each.kind == ObjectClass.CERTIFICATE]
        if stored != [der]:
            raise TokenError(
                f"stored certificate {object_id} in token {self._token.label!r}, but found {len(stored)} there, "
                "not exactly that one: try again, and look at the token if it stays so"
            )

    def discard(self, names: Names) -> None:
        """Remove the key pair and the certificate under these ids, as far as they are ours.

        Raises ObjectConflictError for an id in use.
        """
        key, certificate = ids_of(names)
        self._refuse_in_use(key, 0)
        self._refuse_in_use(certificate, 1)
        with self._token.session(f"remove key {key} and certificate {certificate}") as session:
            self._destroy(session, key, PAIR, 0)
            self._destroy(session, certificate, _CERTIFICATE, 1)

    def spare(self, current: N) -> list[N]:
        """Give the other places that hold one key of ours, of the ids given, else of all; certificates are no part."""
        used_key, certificate = ids_of(current)
        ids = self._key_ids or [ObjectId(value) for value in range(1, 10)]
        with self._token.session("look for other keys of ours") as session:
            found = {each: objects_under(self._token, session, each, ObjectClass.PRIVATE_KEY) for each in ids}
        ours = [each for each, keys in found.items() if [key.label for key in keys] == [KEY_LABEL]]
        return [with_ids(current, each, certificate) for each in ours if each != used_key]

    def retire(self, names: Names) -> None:
        """Keep an identity that is no longer in use: it stays in its slots until the next rotation."""

    def can_derive(self, name: str) -> bool:
        """Tell whether the token does ECDH with that key: by what it has derived before, else by what it says."""
        key = self.key(name)
        return believed(self._token, key.can_derive)

    def check(self, names: Names) -> None:
        """Read key and certificate in the token again, which may be away by now. Raises TokenError."""
        with self._token.session(f"look at key {names.key} and certificate {names.certificate} again") as session:
            for object_id, kind in zip(ids_of(names), (ObjectClass.PRIVATE_KEY, ObjectClass.CERTIFICATE), strict=True):
                check_unchanged(self._token, the_object(self._token, session, kind, object_id))

    def authenticate(self, context: ssl.SSLContext, names: Names) -> None:
        """Make the context present that identity, without a chain. Raises hsm.tls.TlsBindingError too."""
        certificate = self.certificate(names.certificate).der
        try:
            tls.use_private_key(context, certificate, self.key(names.key))
        except tls.TlsBindingError as error:
            if why := tls.why_refused(certificate):
                raise tls.TlsBindingError(
                    f"OpenSSL on this device refuses certificate {names.certificate} of token {self._token.label!r}: "
                    f"{why}; register the device anew, with a CA that signs with SHA-256 or better"
                ) from error
            raise
        tls.present_leaf_only(context)

    def close(self) -> None:
        """Log out."""
        self._token.close()

    def _destroy(
        self, session: pkcs11.Session, object_id: ObjectId, classes: Sequence[ObjectClass], place: int
    ) -> None:
        destroy_ours(self._token, session, object_id, classes, partial(self._refuse_in_use, object_id, place))

    def _refuse_in_use(self, object_id: ObjectId, place: int) -> None:
        if self._in_use is not None and ids_of(self._in_use())[place] == object_id:
            what = ("key", "certificate")[place]
            raise ObjectConflictError(f"{what} {object_id} of token {self._token.label!r} is in use: left as it is")
