"""The key store in a token: slots for key pairs and for certificates, used in turn.

- A new key pair goes under the id of PKEYIDS that is not in use, labelled `tls`, its certificate under the id of
  CERTIDS that is not in use, labelled `client`. lmp-device-register uses the same labels.
- Only keys labelled `tls` under a key id and certificates labelled `client` under a certificate id are ever destroyed,
  never those in use. Any other object under a chosen id belongs to another program, and the id is refused.
- Destroy before create: a secure element has little memory, and a retry must not leak a key.
- The old identity stays in its slots until the next rotation needs them.
"""

import logging
import ssl
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

from cryptography.hazmat.primitives.asymmetric import ec
from pkcs11 import ObjectClass

from hsm import tls
from hsm.certificate import Certificate
from hsm.errors import ObjectConflictError, ObjectMissingError, TlsBindingError, TokenAbsentError, TokenError
from hsm.keys import TokenPrivateKey, load_private_key
from hsm.objects import believed, check_unchanged, objects_under, the_object
from hsm.place import KEY_LABEL, CertificatePlace, KeyPlace
from hsm.slots import ALL_IDS, IdentityNames, alternate, id_of, read_id
from hsm.token import Token

_log = logging.getLogger(__name__)
T = TypeVar("T")


class TokenKeyStore:
    """The identities in a token. All methods raise hsm.errors.TokenError and its subclasses.

    The ids are those of the request; the constructor raises ValueError for anything but 1 to 9. `in_use` returns what
    must not be destroyed; it is called before each removal. `delays` are the seconds before each further attempt at a
    change; `wait` waits.
    """

    def __init__(
        self,
        token: Token,
        key_ids: Sequence[str],
        certificate_ids: Sequence[str],
        *,
        in_use: Callable[[], IdentityNames] | None = None,
        delays: Sequence[float] = (0.5, 2.0, 5.0),
        wait: Callable[[float], object] | None = None,
    ) -> None:
        self._token = token
        self._key_ids = tuple(map(read_id, key_ids))
        self._certificate_ids = tuple(map(read_id, certificate_ids))
        self._in_use = in_use
        self._delays = delays
        self._wait = wait or threading.Event().wait

    def canonical(self, names: IdentityNames) -> IdentityNames:
        """Return the ids with two digits. Raises UnsupportedError for anything but 01 to 09."""
        return IdentityNames(*names.ids)

    def unused(self, current: IdentityNames) -> IdentityNames:
        """Choose ids that are not in use, by value, and check that their slots are empty or ours. Changes nothing.

        Raises ObjectConflictError for another program's object there.
        """
        key, certificate = map(alternate, (self._key_ids, self._certificate_ids), current.ids)
        names = IdentityNames(key, certificate)
        with self._token.session("look at the free slots") as session:
            for place in self._places(names):
                place.refuse_strangers(objects_under(self._token, session, place.id))
        return names

    def _places(self, names: IdentityNames) -> tuple[KeyPlace, CertificatePlace]:
        key, certificate = names.ids
        return KeyPlace(self._token, key, self._in_use), CertificatePlace(self._token, certificate, self._in_use)

    def key(self, name: str) -> TokenPrivateKey:
        """Load a private key, which stays in the token."""
        return load_private_key(self._token, id_of(name))

    def find_key(self, name: str) -> TokenPrivateKey | None:
        """Load a private key if there is exactly one complete pair, tried with a signature; else None."""
        try:
            key = self.key(name)
        except (ObjectMissingError, ObjectConflictError):
            return None
        # An interrupted generation may leave halves of two pairs.
        if not key.is_pair():
            _log.warning("Private and public key %s in token %r do not belong together.", name, self._token.label)
            return None
        return key

    def certificate(self, name: str) -> Certificate:
        """Load a certificate."""
        object_id = id_of(name)

        def read() -> bytes:
            with self._token.session(f"read certificate {object_id}") as session:
                return the_object(self._token, session, ObjectClass.CERTIFICATE, object_id).value

        try:
            return Certificate.read(believed(self._token, read))
        except ValueError as error:
            raise ObjectConflictError(
                f"certificate {object_id} in token {self._token.label!r} is not a certificate ({error}): remove it"
            ) from error

    def generate(self, name: str, curve: ec.EllipticCurve) -> TokenPrivateKey:
        """Make a key pair on P-256 or P-384 after destroying ours under that id; retry while the token is busy.

        Raises ObjectConflictError for an id in use or with another program's object, TokenError.
        """
        place = KeyPlace(self._token, id_of(name), self._in_use)
        place.check_not_in_use()
        return self._patiently(lambda: place.make_pair(curve), while_absent=True)

    def _patiently(self, change: Callable[[], T], *, while_absent: bool) -> T:
        """Change the token; retry failures that may pass: another program may be writing to it."""
        for delay in self._delays:
            try:
                return change()
            except TokenError as error:
                if error.final or (isinstance(error, TokenAbsentError) and not while_absent):
                    raise
                _log.warning("%s; retrying in %g s.", error, delay)
            self._wait(delay)
            # tpm2-pkcs11 keeps a transient object of every generation until it is restarted.
            self._token.reinitialize()
        return change()

    def store_certificate(self, name: str, certificate: Certificate) -> None:
        """Replace our certificate under that id, unless it is there already; retry while the token is busy."""
        place = CertificatePlace(self._token, id_of(name), self._in_use)
        self._patiently(lambda: place.store(certificate), while_absent=False)

    def discard(self, names: IdentityNames) -> None:
        """Remove our key pair and certificate under these ids. Raises ObjectConflictError for an id in use."""
        places = self._places(names)
        for place in places:
            place.check_not_in_use()
        with self._token.session(f"remove key {places[0].id} and certificate {places[1].id}") as session:
            for place in places:
                place.destroy_ours(session)

    def spare(self, current: IdentityNames) -> list[IdentityNames]:
        """Return the other ids that hold one key of ours, of the given ids, else of all; with the same certificate."""
        used_key, certificate = current.ids
        ids = self._key_ids or ALL_IDS
        with self._token.session("look for other keys of ours") as session:
            found = {each: objects_under(self._token, session, each, ObjectClass.PRIVATE_KEY) for each in ids}
        ours = [each for each, keys in found.items() if [key.label for key in keys] == [KEY_LABEL]]
        return [IdentityNames(each, certificate) for each in ours if each != used_key]

    def retire(self, names: IdentityNames) -> None:
        """Keep an identity that is no longer in use in its slots until the next rotation."""

    def can_derive(self, name: str) -> bool:
        """Return whether the token does ECDH with that key: it has, or says so."""
        key = self.key(name)
        return believed(self._token, key.can_derive)

    def check(self, names: IdentityNames) -> None:
        """Read key and certificate in the token again, just before the configuration names them. Raises TokenError."""
        with self._token.session(f"look at key {names.key} and certificate {names.certificate} again") as session:
            for object_id, kind in zip(names.ids, (ObjectClass.PRIVATE_KEY, ObjectClass.CERTIFICATE), strict=True):
                check_unchanged(self._token, the_object(self._token, session, kind, object_id))

    def authenticate(self, context: ssl.SSLContext, names: IdentityNames) -> None:
        """Make the context present that identity, without a chain. Raises TlsBindingError too."""
        certificate = self.certificate(names.certificate).der
        if why := tls.why_refused(certificate):
            raise TlsBindingError(
                f"certificate {names.certificate} of token {self._token.label!r} cannot be used: OpenSSL on this "
                f"device refuses it: {why}; register the device again, with a CA that signs with SHA-256 or better"
            )
        tls.use_private_key(context, certificate, self.key(names.key))
        tls.present_leaf_only(context)

    def close(self) -> None:
        """Log out."""
        self._token.close()
