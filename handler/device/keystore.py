"""Where private keys and certificates live: in PEM files, here, or in a token, `hsm.keystore`."""

import logging
import os
import re
import secrets
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from handler.crypto.signatures import algorithm_of
from handler.errors import RequestRefusedError
from hsm import tls
from hsm.certificate import Certificate
from hsm.errors import TlsBindingError
from hsm.slots import IdentityNames

from .storage import atomic_write, check_folder, read_regular, remove

if TYPE_CHECKING:
    from hsm.keystore import TokenKeyStore

__all__ = ["REGISTER", "FileKeyStore", "IdentityNames", "KeyStore", "check_pair", "refusal_by_openssl"]

log = logging.getLogger(__name__)

# fioconfig's names too (os.CreateTemp of Go: "pkey.*.pem"); a file with any other name was provisioned.
_MADE_BY_ROTATION = re.compile(r"(pkey|client)\.([0-9]+|[0-9a-f]{10})\.pem", re.ASCII)
FILE_MODE = 0o600
REGISTER = "no server can be asked with it: register the device again, with a CA that signs with SHA-256 or better"

KeyStore: TypeAlias = "FileKeyStore | TokenKeyStore"


class FileKeyStore:
    """Keys and certificates in PEM files. A rotation makes new ones with unique names in the folder `storage`.

    Only those are ever overwritten or removed: factory-provisioned files are kept.
    """

    def __init__(self, storage: Path) -> None:
        self._storage = storage

    def canonical(self, names: IdentityNames) -> IdentityNames:
        """Return the paths absolute and normalised; symlinks are not followed."""
        return IdentityNames(*map(os.path.abspath, (names.key, names.certificate)))

    def unused(self, current: IdentityNames) -> IdentityNames:  # noqa: ARG002 - needed for tokens
        """Choose new file names. Raises RequestRefusedError if the folder cannot be written."""
        check_folder(self._storage)
        try:
            str(self._storage.absolute()).encode()
        except UnicodeEncodeError as error:
            raise RequestRefusedError(
                f"{self._storage} is not UTF-8, so TOML cannot name new keys in it: rename the folder"
            ) from error
        while True:
            key = str(self._storage / f"pkey.{secrets.randbelow(10**10):010d}.pem")
            names = self.canonical(IdentityNames(key, _certificate_beside(key)))
            if not os.path.lexists(names.key) and not os.path.lexists(names.certificate):
                return names

    def key(self, name: str) -> ec.EllipticCurvePrivateKey:
        """Load a private key on P-256 or P-384. Raises RequestRefusedError that names the file."""
        data = _read(name, "a private key")
        try:
            key = load_pem_private_key(data, None)
        except TypeError as error:
            raise RequestRefusedError(f"{name} is encrypted: expected a private key without a passphrase") from error
        except (ValueError, UnsupportedAlgorithm) as error:
            raise RequestRefusedError(
                f"{name} holds no readable private key: expected one in PEM; check what the configuration names, or "
                "register the device again"
            ) from error
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name not in {"secp256r1", "secp384r1"}:
            kind = key.curve.name if isinstance(key, ec.EllipticCurvePrivateKey) else type(key).__name__.lstrip("_")
            raise RequestRefusedError(
                f"{name} holds a key of another kind ({kind}): expected P-256 or P-384, to which values of the "
                "configuration can be encrypted"
            )
        return key

    def find_key(self, name: str) -> ec.EllipticCurvePrivateKey | None:
        """Load a private key; None if there is no usable one."""
        try:
            return self.key(name)
        except RequestRefusedError:
            return None

    def certificate(self, name: str) -> Certificate:
        """Load the first certificate of a PEM file. Raises RequestRefusedError that names the file."""
        data = _read(name, "a certificate")
        try:
            return Certificate.of_pem(data)
        except ValueError as error:
            raise RequestRefusedError(f"{name} holds no readable certificate: expected one in PEM ({error})") from error

    def generate(self, name: str, curve: ec.EllipticCurve) -> ec.EllipticCurvePrivateKey:
        """Make a new key in a file of its own, 0600, durably. Raises ValueError, OSError."""
        key = ec.generate_private_key(curve)
        self._write(name, _pem(key))
        return key

    def store_certificate(self, name: str, certificate: Certificate) -> None:
        """Write the certificate (PEM, 0600) durably. Raises ValueError, OSError."""
        self._write(name, certificate.pem.encode())

    def discard(self, names: IdentityNames) -> None:
        """Remove those files of an identity that a rotation made. Raises OSError."""
        for name in (names.key, names.certificate):
            if self._is_own(name):
                remove(Path(name))

    retire = discard

    def spare(self, current: IdentityNames) -> list[IdentityNames]:
        """Return the other PEM files of the folder: a provisioned key may have been in use before, too."""
        paths = [str(path) for path in sorted(self._storage.glob("*.pem")) if path.is_file()]
        found = [self.canonical(IdentityNames(each, _certificate_beside(each))) for each in paths]
        used = {*map(os.path.realpath, (current.key, current.certificate))}
        return [each for each in found if not used & {*map(os.path.realpath, (each.key, each.certificate))}]

    def can_derive(self, name: str) -> bool:  # noqa: ARG002
        """Return True: keys in files can do ECDH."""
        return True

    def check(self, names: IdentityNames) -> None:
        """Do nothing: files are read each time."""

    def authenticate(self, context: ssl.SSLContext, names: IdentityNames) -> None:
        """Make the context present the first certificate of its file alone: EST servers refuse a chain.

        Raises RequestRefusedError if key and certificate cannot be used or do not belong together.
        """
        certificate, key = self.certificate(names.certificate), self.key(names.key)
        check_pair(names, key, certificate)
        # ssl reads files only: this one is in memory, in a form that OpenSSL knows.
        descriptor = os.memfd_create("identity", os.MFD_CLOEXEC)
        try:
            os.write(descriptor, certificate.pem.encode() + _pem(key))
            context.load_cert_chain(f"/proc/self/fd/{descriptor}")
        except ssl.SSLError as error:
            problem = refusal_by_openssl(certificate)
            said = f"{problem}; {REGISTER}" if problem else f"OpenSSL refuses it ({error}): have its CA write another"
            raise RequestRefusedError(f"certificate {names.certificate} cannot be used: {said}") from error
        finally:
            os.close(descriptor)
        try:
            tls.present_leaf_only(context)
        except TlsBindingError as error:
            log.warning("a CA certificate of the CA file may be sent along with the client certificate: %s", error)

    def close(self) -> None:
        """Do nothing: nothing is open."""

    def _write(self, name: str, pem: bytes) -> None:
        if not self._is_own(name):
            raise ValueError(f"{name} is not a file that a rotation makes: it is not overwritten")
        atomic_write(Path(name), pem, mode=FILE_MODE)

    def _is_own(self, name: str) -> bool:
        """Return whether a rotation made that file, judged by its name and folder."""
        path = Path(name)
        return bool(_MADE_BY_ROTATION.fullmatch(path.name)) and path.parent.resolve() == self._storage.resolve()


def check_pair(names: IdentityNames, key: ec.EllipticCurvePrivateKey, certificate: Certificate) -> None:
    """Raise RequestRefusedError if the certificate is for another key."""
    if not certificate.holds(key.public_key()):
        raise RequestRefusedError(
            f"key {names.key} and certificate {names.certificate} do not belong together: expected the certificate "
            "to hold that key; check what the configuration names"
        )


def refusal_by_openssl(certificate: Certificate) -> str | None:
    """Return why OpenSSL on this device refuses to present a certificate; None if it does not."""
    why = tls.why_refused(certificate.der)
    return why and f"OpenSSL on this device refuses it, signed with {algorithm_of(certificate)}: {why}"


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())


def _certificate_beside(key: str) -> str:
    """Return the path of the certificate that a rotation makes for that key."""
    path = Path(key)
    return str(path.with_name(path.name.replace("pkey.", "client.", 1)))


def _read(name: str, what: str) -> bytes:
    try:
        return read_regular(Path(name), follow=True)
    except OSError as error:
        raise RequestRefusedError(
            f"{name} cannot be read: {error.strerror}; expected {what}, check what the configuration names"
        ) from error
