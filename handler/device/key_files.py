"""Keys and certificates in PEM files."""

import logging
import os
import re
import secrets
import ssl
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from handler.crypto.signatures import algorithm_of
from handler.errors import RequestRefusedError
from hsm import tls
from hsm.certificate import Certificate

from .keystore import IdentityNames
from .storage import atomic_write, read_regular, remove, why_not

log = logging.getLogger(__name__)

# As fioconfig names them (os.CreateTemp of Go: "pkey.*.pem"); whatever is named otherwise was provisioned.
_MADE_BY_ROTATION = re.compile(r"(pkey|client)\.([0-9]+|[0-9a-f]{10})\.pem", re.ASCII)
FILE_MODE = 0o600
REGISTER = "no server can be asked with it: register the device anew, with a CA that signs with SHA-256 or better"


class FileKeyStore:
    """Keys and certificates in PEM files. A rotation makes new ones, of unique names, in the folder `storage`.

    Only such files are ever overwritten or removed: a factory-provisioned one is kept.
    """

    sota_keys: tuple[str, str] = ("import.tls_pkey_path", "import.tls_clientcert_path")

    def __init__(self, storage: Path) -> None:
        self._storage = storage

    def canonical(self, names: IdentityNames) -> IdentityNames:
        """Give the paths absolute and normalised; symlinks stay."""
        return IdentityNames(_absolute(names.key), _absolute(names.certificate))

    def unused(self, current: IdentityNames) -> IdentityNames:  # noqa: ARG002 - a token asks which slot is in use
        """Choose new file names. Raises RequestRefusedError where the folder cannot be written."""
        if not os.access(self._storage, os.W_OK | os.X_OK, effective_ids=True):
            why = why_not() if self._storage.is_dir() else "it is not there, or no folder"
            raise RequestRefusedError(
                f"{self._storage} cannot be written: expected a folder for new keys and certificates; {why}"
            )
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
                f"{name} holds no readable private key: expected one in PEM; look at what the configuration names, or "
                "register the device anew"
            ) from error
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name not in {"secp256r1", "secp384r1"}:
            kind = key.curve.name if isinstance(key, ec.EllipticCurvePrivateKey) else type(key).__name__.lstrip("_")
            raise RequestRefusedError(
                f"{name} holds a key of another kind ({kind}): expected P-256 or P-384, to which values of the "
                "configuration can be encrypted"
            )
        return key

    def find_key(self, name: str) -> ec.EllipticCurvePrivateKey | None:
        """Load a private key, None where there is none that can be used."""
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
        """Make a new key in a file of its own, 0600, durable when this returns. Raises ValueError, OSError."""
        key = ec.generate_private_key(curve)
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
        atomic_write(self._own(name), pem, mode=FILE_MODE)
        return key

    def store_certificate(self, name: str, certificate: Certificate) -> None:
        """Write the certificate (PEM, 0600), durable when this returns. Raises ValueError, OSError."""
        atomic_write(self._own(name), certificate.pem.encode(), mode=FILE_MODE)

    def discard(self, names: IdentityNames) -> None:
        """Remove the files of an identity as far as a rotation made them. Raises OSError."""
        for name in (names.key, names.certificate):
            if self._is_own(name):
                remove(Path(name))

    retire = discard

    def spare(self, current: IdentityNames) -> list[IdentityNames]:
        """Give the other PEM files of the folder: also a provisioned key may have been in use before."""
        paths = [str(path) for path in sorted(self._storage.glob("*.pem")) if path.is_file()]
        found = [self.canonical(IdentityNames(each, _certificate_beside(each))) for each in paths]
        used = {*map(os.path.realpath, (current.key, current.certificate))}
        return [each for each in found if not used & {*map(os.path.realpath, (each.key, each.certificate))}]

    def can_derive(self, name: str) -> bool:  # noqa: ARG002
        """Tell that keys in files can do ECDH."""
        return True

    def check(self, names: IdentityNames) -> None:
        """Nothing: files are read each time."""

    def authenticate(self, context: ssl.SSLContext, names: IdentityNames) -> None:
        """Make the context present the one certificate, without what else its file holds (EST servers refuse a chain).

        Raises RequestRefusedError where key and certificate cannot be used or do not belong together.
        """
        certificate = self.certificate(names.certificate)
        if not certificate.holds(self.key(names.key).public_key()):
            raise RequestRefusedError(
                f"key {names.key} and certificate {names.certificate} do not belong together: expected the certificate "
                "to hold that key; look at what the configuration names"
            )
        # ssl takes certificates from files only: this one is in memory.
        descriptor = os.memfd_create("client-certificate", os.MFD_CLOEXEC)
        try:
            os.write(descriptor, certificate.pem.encode())
            context.load_cert_chain(f"/proc/self/fd/{descriptor}", names.key)
        except ssl.SSLError as error:
            problem = refusal_by_openssl(certificate) or f"with key {names.key} OpenSSL refuses it: {error}"
            raise RequestRefusedError(
                f"certificate {names.certificate} cannot be used: {problem}; {REGISTER}"
            ) from error
        finally:
            os.close(descriptor)
        try:
            tls.present_leaf_only(context)
        except tls.TlsBindingError as error:
            log.warning("a CA certificate of the CA file may be sent along with the client certificate: %s", error)

    def close(self) -> None:
        """Nothing is open."""

    def _is_own(self, name: str) -> bool:
        """Tell whether a rotation made that file: by its name, and because it stands in the storage folder."""
        path = Path(name)
        return bool(_MADE_BY_ROTATION.fullmatch(path.name)) and path.parent.resolve() == self._storage.resolve()

    def _own(self, name: str) -> Path:
        if not self._is_own(name):
            raise ValueError(f"{name} is not a file that a rotation makes: it is not overwritten")
        return Path(name)


def refusal_by_openssl(certificate: Certificate) -> str | None:
    """Say that OpenSSL on this device refuses to show a certificate to servers, and why; None where it does not."""
    why = tls.why_refused(certificate.der)
    return why and f"OpenSSL on this device refuses it, signed with {algorithm_of(certificate)}: {why}"


def _certificate_beside(key: str) -> str:
    """Name the certificate's file that a rotation makes beside that key's."""
    path = Path(key)
    return str(path.with_name(path.name.replace("pkey.", "client.", 1)))


def _absolute(name: str) -> str:
    return os.path.abspath(name)  # noqa: PTH100 - Path.resolve would follow symlinks


def _read(name: str, what: str) -> bytes:
    try:
        return read_regular(Path(name), follow=True)
    except OSError as error:
        raise RequestRefusedError(
            f"{name} cannot be read: {error.strerror}; expected {what}, look at what the configuration names"
        ) from error
