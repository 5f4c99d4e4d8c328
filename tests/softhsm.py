"""SoftHSM tokens for tests: one directory of tokens per test process, each token with its own label.

SOFTHSM2_CONF is read once per process and python-pkcs11 keeps a module by its path, so all tokens of a process share
one directory. `make_token` appends a number to the label, so that two tests never meet. hsm.token.Token notices tokens
that were made after the module was loaded.
"""

import atexit
import contextlib
import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from pkcs11 import Attribute, CertificateType, KeyType, ObjectClass
from pkcs11.constants import DEFAULT, MechanismFlag
from pkcs11.exceptions import PKCS11Error
from pkcs11.util.ec import encode_ec_public_key
from pkcs11.util.rsa import encode_rsa_public_key

from hsm import module
from hsm.curves import EC_PARAMS
from hsm.keys import load_private_key
from hsm.slots import read_id
from hsm.token import Token

MODULE = "/usr/lib/softhsm/libsofthsm2.so"
SO_PIN = "so-87654321"

_CLASSES = (
    ObjectClass.PRIVATE_KEY,
    ObjectClass.PUBLIC_KEY,
    ObjectClass.CERTIFICATE,
    ObjectClass.SECRET_KEY,
    ObjectClass.DATA,
)
# What tpm2-pkcs11 does not take of a key pair's template.
_PUBLIC_LEFT_OUT = {Attribute.ENCRYPT: DEFAULT, Attribute.WRAP: DEFAULT}
_PRIVATE_LEFT_OUT = {Attribute.DECRYPT: DEFAULT, Attribute.UNWRAP: DEFAULT}
_numbers = itertools.count(1)
_home: Path | None = None


@dataclass(frozen=True, order=True)
class TokenObject:
    """One object of a token, as far as every module tells: enough to compare a token before and after."""

    object_class: str
    id: str
    label: str
    value: str


@dataclass(frozen=True)
class TokenFixture:
    """One token as a device's configuration names it (p11.module, p11.label, p11.pass), and where its files are.

    `environment` is what a program needs to use it. Tests arrange and question it by its methods, which other kinds of
    tokens have too (tests.tokens).
    """

    module: str
    label: str
    pin: str
    directory: Path
    environment: Mapping[str, str] = field(default_factory=dict, compare=False)

    can_derive = True

    def objects(self) -> list[TokenObject]:
        """List what is in the token."""
        return objects(self)

    def add_key_pair(
        self, object_id: int, label: str = "tls", curve: ec.EllipticCurve | None = None
    ) -> ec.EllipticCurvePublicKey:
        """Make a key pair as lmp-device-register does."""
        return add_key_pair(self, object_id, label, curve)

    def add_certificate(self, object_id: int, certificate: x509.Certificate, label: str = "client") -> None:
        """Put a certificate in the token."""
        add_certificate(self, object_id, certificate, label)

    @contextlib.contextmanager
    def private_key(self, object_id: str):
        """Open the private key under an id ("01")."""
        token = Token(self.module, self.label, self.pin)
        try:
            yield load_private_key(token, read_id(object_id))
        finally:
            token.close()

    @contextlib.contextmanager
    def away(self):
        """Have the token away, as if it were pulled out, until the block ends."""
        # Beside the folder in which modules look for tokens: at most a rename.
        place = self.directory.parents[1] / f"away-{self.directory.name}"
        self.directory.rename(place)
        try:
            yield
        finally:
            place.rename(self.directory)


def _token_home() -> Path:
    """Make this process's directory of tokens, and name it in the environment, once."""
    global _home  # noqa: PLW0603 - SOFTHSM2_CONF is one for the process too
    if _home is None:
        _home = Path(tempfile.mkdtemp(prefix="softhsm-"))
        atexit.register(shutil.rmtree, _home, ignore_errors=True)
        (_home / "tokens").mkdir()
        configuration = _home / "softhsm2.conf"
        configuration.write_text(
            f"directories.tokendir = {_home}/tokens\nobjectstore.backend = file\nlog.level = ERROR\n"
        )
        os.environ["SOFTHSM2_CONF"] = str(configuration)
    return _home


def softhsm_environment() -> dict[str, str]:
    """Give what a separate process needs in its environment to see this process's tokens."""
    return {"SOFTHSM2_CONF": str(_token_home() / "softhsm2.conf")}


def make_token(label: str = "aktualizr", pin: str = "87654321", *, exact: bool = False) -> TokenFixture:
    """Make an empty token, whose label is `label` and a number; `exact` keeps the label as it is.

    A token that had the same label and is gone would be found in its place, and nobody can log in to that: SoftHSM
    lists tokens when it starts.
    """
    tokens = _token_home() / "tokens"
    before = set(tokens.iterdir())
    full_label = label if exact else f"{label}-{next(_numbers)}"
    subprocess.run(
        ["softhsm2-util", "--init-token", "--free", "--label", full_label, "--pin", pin, "--so-pin", SO_PIN],
        check=True,
        capture_output=True,
        env=os.environ | softhsm_environment(),
    )
    (directory,) = set(tokens.iterdir()) - before
    if exact:
        restart_modules()
    return TokenFixture(MODULE, full_label, pin, directory, softhsm_environment())


def remove_token(token: TokenFixture) -> None:
    """Remove a token with all that is in it, also under a program that has it open."""
    shutil.rmtree(token.directory, ignore_errors=True)


def restart_modules() -> None:
    """End every session and login of this process's modules, and what they keep of objects and tokens that are gone."""
    with module.LOCK:
        for each in module._loaded.values():
            with contextlib.suppress(PKCS11Error):
                each.reinitialize()


@contextlib.contextmanager
def opened(token: TokenFixture):
    """Give a session on the token (python-pkcs11's), under the process's lock, for arranging and questioning it."""
    client = Token(token.module, token.label, token.pin)
    try:
        with client.session("arrange a test") as session:
            yield session
    finally:
        client.close()


def objects(token: TokenFixture) -> list[TokenObject]:
    """List what is in the token, sorted: class, CKA_ID, label, and value (public point or certificate), in hex."""
    found = []
    with opened(token) as session:
        # By class: an object that a killed program left half written has none, and no search of a program finds it.
        for kind in _CLASSES:
            for item in list(session.get_objects({Attribute.CLASS: kind})):
                value = _value(item, kind)
                found.append(TokenObject(kind.name, item[Attribute.ID].hex(), item[Attribute.LABEL], value))
    return sorted(found)


def _value(item, kind: ObjectClass) -> str:
    if kind == ObjectClass.CERTIFICATE:
        return item[Attribute.VALUE].hex()
    if kind == ObjectClass.PUBLIC_KEY:
        return item[Attribute.MODULUS if item[Attribute.KEY_TYPE] == KeyType.RSA else Attribute.EC_POINT].hex()
    return ""


def add_key_pair(
    token: TokenFixture, object_id: int, label: str = "tls", curve: ec.EllipticCurve | None = None
) -> ec.EllipticCurvePublicKey:
    """Make a key pair in the token as lmp-device-register does (P-256 by default), even if there are others."""
    with opened(token) as session:
        public, _ = session.generate_keypair(
            KeyType.EC,
            id=bytes([object_id]),
            label=label,
            store=True,
            capabilities=MechanismFlag.SIGN | MechanismFlag.VERIFY | MechanismFlag.DERIVE,
            public_template={Attribute.EC_PARAMS: EC_PARAMS[(curve or ec.SECP256R1()).name], **_PUBLIC_LEFT_OUT},
            private_template={Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False, **_PRIVATE_LEFT_OUT},
        )
        return serialization.load_der_public_key(encode_ec_public_key(public))


def add_rsa_key_pair(token: TokenFixture, object_id: int, label: str = "tls") -> rsa.RSAPublicKey:
    """Make an RSA key pair in the token, as nobody should."""
    with opened(token) as session:
        public, _ = session.generate_keypair(
            KeyType.RSA,
            2048,
            id=bytes([object_id]),
            label=label,
            store=True,
            capabilities=MechanismFlag.SIGN | MechanismFlag.VERIFY,
            public_template=_PUBLIC_LEFT_OUT,
            private_template={Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False, **_PRIVATE_LEFT_OUT},
        )
        return serialization.load_der_public_key(encode_rsa_public_key(public))


def add_certificate(token: TokenFixture, object_id: int, certificate: x509.Certificate, label: str = "client") -> None:
    """Put a certificate in the token, whatever is there already."""
    with opened(token) as session:
        session.create_object(
            {
                Attribute.CLASS: ObjectClass.CERTIFICATE,
                Attribute.CERTIFICATE_TYPE: CertificateType.X_509,
                Attribute.TOKEN: True,
                Attribute.PRIVATE: False,
                Attribute.ID: bytes([object_id]),
                Attribute.LABEL: label,
                Attribute.SUBJECT: certificate.subject.public_bytes(),
                Attribute.VALUE: certificate.public_bytes(serialization.Encoding.DER),
            }
        )


def add_secret(token: TokenFixture, object_id: int, label: str, value: bytes = b"somebody else's") -> None:
    """Put a secret key in the token, as other software may."""
    with opened(token) as session:
        session.create_object(
            {
                Attribute.CLASS: ObjectClass.SECRET_KEY,
                Attribute.KEY_TYPE: KeyType.GENERIC_SECRET,
                Attribute.TOKEN: True,
                Attribute.ID: bytes([object_id]),
                Attribute.LABEL: label,
                Attribute.VALUE: value,
            }
        )


def remove_objects(token: TokenFixture, object_id: int, object_class: ObjectClass) -> None:
    """Remove the objects of a class under an id, whose ever they are."""
    with opened(token) as session:
        for item in list(session.get_objects({Attribute.ID: bytes([object_id]), Attribute.CLASS: object_class})):
            item.destroy()
