"""SoftHSM, by itself, behind p11-kit's remoting, and behind pkcs11-spy."""

import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from pkcs11 import ObjectClass

from tests import softhsm
from tests.softhsm import TokenFixture, TokenObject
from tests.tokens.apart import Apart
from tests.tokens.asked import write
from tests.tokens.programs import Programs

SPY, P11KIT = (
    str(next(Path("/usr/lib").glob(f"*/pkcs11/{name}"), f"/usr/lib/pkcs11/{name}"))
    for name in ("pkcs11-spy.so", "p11-kit-client.so")
)


class _Server(Programs):
    """p11-kit's server in front of SoftHSM, on a socket in `folder`."""

    def __init__(self, folder: Path, store: TokenFixture) -> None:
        super().__init__()
        self._socket = folder / "socket"
        self._store = store
        self.environment = {"P11_KIT_SERVER_ADDRESS": f"unix:path={self._socket}"}

    def start(self) -> None:
        self._socket.unlink(missing_ok=True)
        command = ["p11-kit", "server", "--foreground", "--name", str(self._socket)]
        command += ["--provider", self._store.module, "pkcs11:"]
        variables = {**self._store.environment, "XDG_RUNTIME_DIR": str(self._socket.parent)}
        if not self._run(command, self._answers, variables):
            raise RuntimeError("p11-kit server does not start")

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as client:
            return client.connect_ex(str(self._socket)) == 0


@dataclass(frozen=True)
class SoftHsm(TokenFixture):
    """A SoftHSM token that programs use through `module`, and tests as `store`."""

    store: TokenFixture = field(kw_only=True)
    helper: Apart = field(kw_only=True, compare=False)
    server: _Server | None = None

    takes_a_label_twice = True

    @property
    def can_derive(self) -> bool:
        """p11-kit's remoting does not pass on the parameter of CKM_ECDH1_DERIVE."""
        return self.server is None

    @property
    def plain_module(self) -> str:
        """The module that holds the objects: not pkcs11-spy, which cannot stand in front of itself."""
        return self.store.module if self.module == SPY else self.module

    def objects(self) -> list[TokenObject]:
        """List what is in the token."""
        return self.store.objects()

    def add_key_pair(
        self, object_id: int, label: str = "tls", curve: ec.EllipticCurve | None = None
    ) -> ec.EllipticCurvePublicKey:
        """Make a key pair as lmp-device-register does."""
        return self.store.add_key_pair(object_id, label, curve)

    def add_rsa_key_pair(self, object_id: int):
        """Make an RSA key pair."""
        return softhsm.add_rsa_key_pair(self.store, object_id)

    def add_certificate(self, object_id: int, certificate: x509.Certificate, label: str = "client") -> None:
        """Put a certificate in the token."""
        self.store.add_certificate(object_id, certificate, label)

    def write_apart(self, object_id: int, label: str) -> str:
        """Make a key pair as another program does; gives its public point in hex."""
        return self.helper.call(write, self.store, object_id, label)

    def remove_objects(self, object_id: int, object_class: ObjectClass) -> None:
        """Remove the objects of a class under an id."""
        softhsm.remove_objects(self.store, object_id, object_class)

    def private_key(self, object_id: str):
        """Open the private key under an id ("01")."""
        return self.store.private_key(object_id)

    @contextlib.contextmanager
    def away(self):
        """Have the token away: with its server, if it has one."""
        with self.server.stopped() if self.server else self.store.away():
            yield

    @contextlib.contextmanager
    def another(self, label: str) -> Iterator[TokenFixture]:
        """Have another token in the same module."""
        other = softhsm.make_token(label, exact=True)
        try:
            yield other
        finally:
            softhsm.remove_token(other)


@contextlib.contextmanager
def running_softhsm(kind: str, folder: Path, label: str | None) -> Iterator[SoftHsm]:
    store = softhsm.make_token(exact=True, label=label) if label else softhsm.make_token()
    helper = Apart(store.environment)
    token = SoftHsm(
        store.module, store.label, store.pin, store.directory, store.environment, store=store, helper=helper
    )
    try:
        if kind == "spy":
            variables = {**store.environment, "PKCS11SPY": store.module, "PKCS11SPY_OUTPUT": str(folder / "spy.log")}
            token = replace(token, module=SPY, environment=variables)
        if kind == "p11kit":
            with _Server(folder, store) as server:
                yield replace(token, module=P11KIT, environment=server.environment, server=server)
        else:
            yield token
    finally:
        helper.stop()
        softhsm.remove_token(store)
