"""A TPM 2.0 (swtpm) with a resource manager, and a token of tpm2-pkcs11 on it."""

import contextlib
import os
import random
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_der_public_key
from pkcs11 import ObjectClass

from tests import softhsm
from tests.softhsm import TokenFixture, TokenObject
from tests.tokens import asked
from tests.tokens.apart import Apart
from tests.tokens.programs import Programs

TPM2 = str(next(Path("/usr/lib").glob("*/pkcs11/libtpm2_pkcs11.so"), "/usr/lib/pkcs11/libtpm2_pkcs11.so"))


class _Bus(Programs):
    """A message bus of its own. It stays while the TPM is off: who is connected to it would never come back."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def start(self) -> None:
        command = ["dbus-daemon", "--session", "--nofork", "--nopidfile", f"--address=unix:path={self._path}"]
        if not self._run(command, self._path.exists):
            raise RuntimeError("dbus-daemon does not start")


class Chip(Programs):
    """A TPM: swtpm on two loopback ports, with its state and the module's store in `folder`, and a resource manager.

    That is tpm2-abrmd on a message bus of its own; on devices the kernel has one, /dev/tpmrm0.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        self._port = 0
        self._bus = _Bus(folder / "bus")
        (folder / "state").mkdir()
        (folder / "store").mkdir()

    @property
    def environment(self) -> dict[str, str]:
        return {
            "TPM2_PKCS11_TCTI": "tabrmd:bus_type=session",
            "TPM2_PKCS11_STORE": str(self._folder / "store"),
            "TPM2_PKCS11_LOG_LEVEL": "0",
            "DBUS_SESSION_BUS_ADDRESS": f"unix:path={self._folder}/bus",
        }

    def start(self) -> None:
        if not self._start_chip() or not self._start_manager():
            raise RuntimeError("the TPM emulator and its resource manager do not start")

    def __enter__(self):
        try:
            self._bus.start()
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        self.stop()
        self._bus.stop()

    def _start_chip(self) -> bool:
        # Two ports in a row, below those that the kernel gives to anybody; another process may have them all the same.
        choices = random.SystemRandom().sample(range(12000, 32000, 2), 20)
        for self._port in choices:
            if self._run(self._command(), (self._folder / "pid").exists):
                return True
            self.stop()
        return False

    def _command(self) -> list[str]:
        (self._folder / "pid").unlink(missing_ok=True)
        return [
            *("swtpm", "socket", "--tpm2", "--flags", "not-need-init,startup-clear"),
            *("--tpmstate", f"dir={self._folder}/state"),
            *("--server", f"type=tcp,port={self._port},bindaddr=127.0.0.1"),
            *("--ctrl", f"type=tcp,port={self._port + 1},bindaddr=127.0.0.1"),
            *("--pid", f"file={self._folder}/pid"),
        ]

    def _start_manager(self) -> bool:
        # As many objects at once as the kernel's resource manager has.
        manager = ["tpm2-abrmd", "--session", "--allow-root", "--max-transients=3"]
        manager.append(f"--tcti=swtpm:host=127.0.0.1,port={self._port}")
        return self._run(manager, self._is_managed, self.environment)

    def _is_managed(self) -> bool:
        question = ["org.freedesktop.DBus.NameHasOwner", "string:com.intel.tss2.Tabrmd"]
        command = ["dbus-send", "--session", "--print-reply=literal", "--dest=org.freedesktop.DBus", "/", *question]
        answer = subprocess.run(command, env={**os.environ, **self.environment}, capture_output=True, check=False)
        return b"true" in answer.stdout

    def tool(self, *arguments: str) -> None:
        """Run pkcs11-tool on it."""
        command = ["pkcs11-tool", "--module", TPM2, *arguments]
        subprocess.run(command, check=True, capture_output=True, timeout=30, env={**os.environ, **self.environment})


@dataclass(frozen=True)
class Tpm(TokenFixture):
    """A token of tpm2-pkcs11."""

    chip: Chip = field(kw_only=True, compare=False)
    helper: Apart = field(kw_only=True, compare=False)

    can_derive = False
    takes_a_label_twice = False

    @property
    def plain_module(self) -> str:
        """The module that holds the objects."""
        return self.module

    def _apart(self, function, *arguments):
        plain = TokenFixture(self.module, self.label, self.pin, self.directory)
        return self.helper.call(function, plain, *arguments)

    def objects(self) -> list[TokenObject]:
        """List what is in the token."""
        return self._apart(softhsm.objects)

    def add_key_pair(
        self, object_id: int, label: str = "tls", curve: ec.EllipticCurve | None = None
    ) -> ec.EllipticCurvePublicKey:
        """Make a key pair as lmp-device-register does."""
        return load_der_public_key(self._apart(asked.add_key_pair, object_id, label, type(curve or ec.SECP256R1())))

    def add_rsa_key_pair(self, object_id: int):
        """Make an RSA key pair."""
        return load_der_public_key(self._apart(asked.add_rsa_key_pair, object_id))

    def add_certificate(self, object_id: int, certificate: x509.Certificate, label: str = "client") -> None:
        """Put a certificate in the token."""
        self._apart(asked.add_certificate, object_id, certificate.public_bytes(Encoding.DER), label)

    def write_apart(self, object_id: int, label: str) -> str:
        """Make a key pair as another program does; gives its public point in hex."""
        return self._apart(asked.write, object_id, label)

    def remove_objects(self, object_id: int, object_class: ObjectClass) -> None:
        """Remove the objects of a class under an id."""
        self._apart(softhsm.remove_objects, object_id, object_class)

    @contextlib.contextmanager
    def private_key(self, object_id: str):
        """Give what is known of the private key under an id, from here: its public key, tried with a signature."""
        yield _FarKey(load_der_public_key(self._apart(asked.public_key, object_id)))

    def away(self):
        """Have the token away: the TPM is off."""
        return self.chip.stopped()

    @contextlib.contextmanager
    def another(self, label: str) -> Iterator["Tpm"]:
        """Have another token in the same module, and TPM."""
        yield new_tpm(self.chip, self.helper, label, slot=1)


class _FarKey:
    def __init__(self, public_key: ec.EllipticCurvePublicKey) -> None:
        self._public_key = public_key

    def public_key(self) -> ec.EllipticCurvePublicKey:
        return self._public_key


def new_tpm(chip: Chip, helper: Apart, label: str, slot: int = 0) -> Tpm:
    pin, slot_index = "87654321", ("--slot-index", str(slot))
    chip.tool(*slot_index, "--init-token", "--label", label, "--so-pin", softhsm.SO_PIN)
    login = ("--login", "--login-type", "so", "--so-pin", softhsm.SO_PIN)
    chip.tool(*slot_index, *login, "--init-pin", "--pin", pin)
    return Tpm(
        TPM2, label, pin, Path(chip.environment["TPM2_PKCS11_STORE"]), chip.environment, chip=chip, helper=helper
    )
