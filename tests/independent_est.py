"""Independent EST programs: Cisco's libest (server and client) and strongSwan's `pki --est` (client).

libest is installed, or lies in build/libest (tests/libest.sh).
"""

import base64
import contextlib
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import pkcs7

from tests.simulators.device import REPOSITORY
from tests.simulators.factory import Factory
from tests.simulators.pki import Authority, FactoryPki, certificate_pem, key_pem

REALM = "estrealm"
_ACCESS = re.compile(r'"(?P<method>[A-Z]+) (?P<path>\S+) HTTP/1\.[01]" (?P<status>-?\d+)')
# Where libest says what went wrong it adds the stack, in addresses.
_STACK = re.compile(r"^\S+\(\S*\+0x[0-9a-f]+\) \[0x[0-9a-f]+\]$")
_SECONDS_TO_START = 10.0
_SECONDS_OF_LIFE = "110"
_SECONDS_OF_A_CLIENT = 30.0

_CA_CONFIG = """\
[ca]
default_ca = est
[est]
database = {folder}/index.txt
serial = {folder}/serial
new_certs_dir = {folder}/issued
certificate = {folder}/ca.pem
private_key = {folder}/ca.key
default_days = 365
default_md = sha256
unique_subject = no
preserve = yes
policy = policy
copy_extensions = copy
x509_extensions = leaf
[policy]
organizationalUnitName = supplied
commonName = supplied
[leaf]
basicConstraints = critical,CA:FALSE
subjectKeyIdentifier = hash
"""


def libest(program: str) -> tuple[str, dict[str, str]]:
    """Give the path of one of libest's programs, and the environment that it needs."""
    installed = Path("/usr/bin", program)
    if installed.exists():
        return str(installed), {}
    top = REPOSITORY / "build/libest/usr"
    if not (top / "bin" / program).exists():
        raise FileNotFoundError(f"{program} of libest is neither installed nor in build/libest: run `make libest`")
    (library,) = top.glob("lib/*/libest.so.3")
    return str(top / "bin" / program), {"LD_LIBRARY_PATH": str(library.parent)}


@dataclass
class Libest:
    """A running estserver."""

    folder: Path
    port: int

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}/.well-known/est"

    def printed(self, number: bytes) -> bool:
        """Whether it printed that number, e.g. the signature of a CSR that it issued a certificate for."""
        return number.hex() in re.sub(r"[:\s]", "", self.log)

    @property
    def log(self) -> str:
        """What it said so far, without the stacks."""
        return _without_stacks((self.folder / "log").read_text(errors="replace"))

    def calls(self) -> list[tuple[str, str, int]]:
        """Give method, operation and status of every request; -1 where libest does not know the status itself."""
        found = _ACCESS.finditer(self.log)
        return [(each["method"], each["path"].rpartition("/")[2], int(each["status"])) for each in found]

    def issued(self) -> int:
        """Count the certificates that it issued."""
        return len((self.folder / "index.txt").read_text().splitlines())


@contextlib.contextmanager
def running_libest(
    folder: Path, pki: FactoryPki, *options: str, csrattrs: str | None = None, trusted: tuple[Authority, ...] = ()
) -> Iterator[Libest]:
    """Run libest's estserver with the device CA of that factory; its log is printed at the end.

    `options`: its own, e.g. "-n" (client certificates are enough) or "-m", "60" (202 at first). `csrattrs`: base64, in
    the place of its own. `trusted`: the CAs of client certificates, by default device CA and root.
    """
    folder.mkdir()
    _write_ca(folder, pki, trusted or (pki.device_ca, pki.root))
    program, environment = libest("estserver")
    environment |= {
        "EST_TRUSTED_CERTS": f"{folder}/trusted.pem",
        "EST_CACERTS_RESP": f"{folder}/cacerts.pem",
        "EST_OPENSSL_CACONFIG": f"{folder}/ca.cnf",
        **({} if csrattrs is None else {"EST_CSR_ATTR": csrattrs}),
    }
    with contextlib.closing(socket.socket()) as reserved:
        # Bound here and there with SO_REUSEADDR, and listened to there only: nobody gets the port in between.
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind(("127.0.0.1", 0))
        server = Libest(folder, reserved.getsockname()[1])
        # It listens on every IPv4 address and cannot be told one: nothing but the test connects, and that to 127.0.0.1.
        # -d: it ends by itself if the test were killed.
        command = [program, "-p", str(server.port), "-c", f"{folder}/server.pem", "-k", f"{folder}/server.key"]
        command += ["-r", REALM, "-v", "-d", _SECONDS_OF_LIFE, *options]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
        try:
            _wait_for(server, process)
            yield server
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            print(f"estserver {' '.join(options)} ended with {process.returncode}:\n{server.log}")


class EstClients:
    """Clients that ask a factory's EST server with its device's identity, from a folder that must not exist yet."""

    def __init__(self, factory: Factory, folder: Path) -> None:
        self._factory = factory
        self._folder = folder
        folder.mkdir()
        pki = factory.pki
        for name, authority in {"server-ca": pki.server_root, "root": pki.root, "device-ca": pki.device_ca}.items():
            (folder / f"{name}.pem").write_bytes(certificate_pem(authority.certificate))

    def libest(self, operation: str, *, server_ca: str = "server-ca.pem") -> subprocess.CompletedProcess[str]:
        """Run estclient: "-g" (cacerts), "-a" (csrattrs) or "-r" (simplereenroll). Its status is always 0."""
        program, environment = libest("estclient")
        storage, port = self._factory.device.storage, self._factory.est_server.port
        command = [program, "-v", operation, "-s", "127.0.0.1", "-p", str(port), "-o", str(self._folder)]
        command += ["-c", f"{storage}/client.pem", "-k", f"{storage}/pkey.pem"]
        return self._run(command, {**environment, "EST_OPENSSL_CACERT": str(self._folder / server_ca)})

    def strongswan(self, operation: str, *options: str) -> subprocess.CompletedProcess[str]:
        """Run strongSwan's pki with "--est" (simplereenroll, of the CSR in csr.der) or "--estca" (cacerts)."""
        # root.pem is that of the issued certificate. Without device-ca.pem, else it is sent beside the certificate.
        command = ["pki", operation, "--url", self._factory.est_server.url, "--outform", "pem"]
        command += ["--cacert", "server-ca.pem", "--cacert", "root.pem", *options]
        if operation == "--est":
            storage = self._factory.device.storage
            command += ["--in", "csr.der", "--cert", f"{storage}/client.pem", "--key", f"{storage}/pkey.pem"]
        return self._run(command, {})

    def write(self, name: str, content: bytes) -> None:
        (self._folder / name).write_bytes(content)

    def certificates(self, name: str) -> list[x509.Certificate]:
        """Read the certificates of a certs-only PKCS#7 (base64) that libest wrote."""
        der = base64.b64decode((self._folder / name).read_bytes())
        return pkcs7.load_der_pkcs7_certificates(der)

    def read(self, name: str) -> bytes:
        return (self._folder / name).read_bytes()

    def _run(self, command: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command,
            cwd=self._folder,
            env={"PATH": os.environ["PATH"], **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SECONDS_OF_A_CLIENT,
            check=False,
        )
        print(f"{' '.join(command)} ended with {done.returncode}:\n{_without_stacks(done.stdout)}\n{done.stderr}")
        return done


def _without_stacks(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if line and not _STACK.match(line))


def _wait_for(server: Libest, process: subprocess.Popen[bytes]) -> None:
    end, pause = time.monotonic() + _SECONDS_TO_START, threading.Event()
    while True:
        if process.poll() is not None:
            raise RuntimeError(f"estserver ended at once, with {process.returncode}")
        try:
            socket.create_connection(("127.0.0.1", server.port), timeout=1.0).close()
            return
        except OSError:
            if time.monotonic() > end:
                raise
        pause.wait(0.005)


def _write_ca(folder: Path, pki: FactoryPki, trusted: tuple[Authority, ...]) -> None:
    (folder / "issued").mkdir()
    identity = pki.server_identity()
    for name, content in {
        "ca.cnf": _CA_CONFIG.format(folder=folder).encode(),
        "ca.pem": certificate_pem(pki.device_ca.certificate),
        "ca.key": key_pem(pki.device_ca.key),
        "cacerts.pem": certificate_pem(pki.device_ca.certificate, pki.root.certificate),
        "trusted.pem": certificate_pem(*(each.certificate for each in trusted)),
        "server.pem": certificate_pem(identity.certificate),
        "server.key": key_pem(identity.key),
        "index.txt": b"",
        "serial": b"1000\n",
    }.items():
        (folder / name).write_bytes(content)
