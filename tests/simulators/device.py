"""A registered device: the files and the token as lmp-device-register and fioconfig leave them, in a folder.

usr/lib/sota/conf.d/40-hsm.toml     module, PIN and label of the token (with a token)
var/sota/                           sota.toml, root.crt, config.encrypted, current-target; pkey.pem and client.pem
etc/sota/conf.d/z-50-fioctl.toml    managed remotely
run/secrets/                        what fioconfig extracts: the request file
bin/                                fioconfig, and a systemctl to which every unit is inactive; neither does anything
"""

import contextlib
import json
import os
import re
import stat
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from handler.device.storage import FOLDER
from tests import softhsm

from . import warm
from .device_config import DEVICE_FILES, FACTORY_FILES, PlainFiles, encrypted
from .gateway import Config, readable_with
from .pki import FactoryPki, certificate_pem, key_pem, spki_pem

REPOSITORY = Path(__file__).resolve().parents[2]
TWO_WEEKS = 14 * 24 * 3600
TARGET = 'TARGET_NAME="intel-corei7-64-lmp-290"\nCUSTOM_VERSION="290"\n'
# What a service has in its environment besides; nothing of the person who runs the tests.
_PASSED_ON = ("HOME", "LD_LIBRARY_PATH", "TMPDIR")


@dataclass(frozen=True)
class Identity:
    """What sota.toml names, and what is there."""

    key: str
    certificate_name: str
    certificate: x509.Certificate
    public_key: str
    """The public half (SPKI, PEM) of the private key of that name."""

    @property
    def whole(self) -> bool:
        """Whether key and certificate belong together."""
        return self.public_key == spki_pem(self.certificate.public_key())


@dataclass(frozen=True)
class FileState:
    """A file or folder, as far as tests compare it."""

    content: bytes | None
    mode: int
    mtime_ns: int | None


@dataclass
class Device:
    """One device in its folder. `certificate` is its first; `config` and `config_device` are what the gateway has."""

    folder: Path
    token: softhsm.TokenFixture | None
    certificate: x509.Certificate
    config: Config
    config_device: Config | None
    est_url: str
    within: tuple[str, ...] = ()
    """A command that runs what follows it, for the program."""

    @property
    def storage(self) -> Path:
        return self.folder / "var/sota"

    @property
    def sota_toml(self) -> Path:
        return self.storage / "sota.toml"

    @property
    def config_encrypted(self) -> Path:
        return self.storage / "config.encrypted"

    @property
    def request_file(self) -> Path:
        return self.folder / "run/secrets/fio-rotate-certs"

    @property
    def hsm_toml(self) -> Path:
        return self.folder / "usr/lib/sota/conf.d/40-hsm.toml"

    @property
    def module(self) -> str:
        """The PKCS#11 module that the configuration names; the token's own at first."""
        return str(tomllib.loads(self.hsm_toml.read_text())["p11"]["module"])

    @module.setter
    def module(self, path: str) -> None:
        self.hsm_toml.write_text(re.sub(r'module = ".*"', f'module = "{path}"', self.hsm_toml.read_text()))

    # What is asked of it

    def write_request(self, rotation_id: str, **overrides: str | None) -> Path:
        """Write the request file as fioctl does. Overrides by key, e.g. `pkeyids="01,09"`; None leaves a line out."""
        values: dict[str, str | None] = {
            "ESTSERVER": self.est_url,
            "PKEYIDS": "01,07",
            "CERTIDS": "03,09",
            "ROTATIONID": rotation_id,
        }
        values |= {key.upper(): value for key, value in overrides.items()}
        lines = [f"{key}={value}\n" for key, value in values.items() if value is not None]
        self.request_file.write_text("".join(lines))
        return self.request_file

    def environment(self) -> dict[str, str]:
        """Give the environment in which fioconfig calls the handler."""
        search_paths = ("usr/lib/sota/conf.d", "var/sota/sota.toml", "etc/sota/conf.d/")
        return {
            **{name: os.environ[name] for name in _PASSED_ON if name in os.environ},
            **(self.token.environment if self.token else {}),
            "PATH": f"{self.folder}/bin:{os.environ['PATH']}",
            "PYTHONPATH": str(REPOSITORY),
            "CONFIG_FILE": str(self.request_file),
            "STORAGE_DIR": str(self.storage),
            "SOTA_DIR": ",".join(f"{self.folder}/{path}" for path in search_paths),
            "FIOCONFIG_BIN": str(self.folder / "bin/fioconfig"),
        }

    def run(
        self, *arguments: str, environment: Mapping[str, str] | None = None, timeout: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        """Call the program and wait: without arguments, as fioconfig does; `environment` is added to its own.

        It is forked from a process that has loaded it, unless the environment says something to the interpreter.
        """
        added = environment or {}
        if timeout <= warm.SECONDS and warm.takes(added):
            return warm.program(self.within).run(arguments, {**self.environment(), **added})
        return subprocess.run(
            self.command(*arguments),
            cwd=REPOSITORY,
            env={**self.environment(), **added},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def start(self, *arguments: str, environment: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """Start the program and do not wait; output comes in pipes. Use as a context manager."""
        env = {**self.environment(), **(environment or {})}
        pipe = subprocess.PIPE
        return subprocess.Popen(self.command(*arguments), cwd=REPOSITORY, env=env, stdout=pipe, stderr=pipe, text=True)

    def command(self, *arguments: str) -> list[str]:
        """Give the command line of the program."""
        return [*self.within, sys.executable, "-m", "handler", *arguments]

    # Questions that tests ask

    def untouched(self) -> dict[str, Any]:
        """Give what a refused request leaves as it is: everything but the journal, its marker and the history."""
        return {name: state for name, state in self.snapshot().items() if FOLDER not in name.split("/")}

    def snapshot(self) -> dict[str, Any]:
        """Give every file (content, mode, time) and every object of the token, to be compared with a later one."""
        found: dict[str, Any] = {}
        for top in ("usr", "var", "etc", "run"):
            for path in sorted((self.folder / top).rglob("*")):
                found[str(path.relative_to(self.folder))] = _file_state(path)
        if self.token:
            found["token"] = self.token.objects()
        return found

    def token_objects(self) -> list[softhsm.TokenObject]:
        """List the token's objects; none without a token."""
        return self.token.objects() if self.token else []

    def sota(self) -> dict[str, Any]:
        """Read sota.toml."""
        return tomllib.loads(self.sota_toml.read_text())

    def current_identity(self) -> Identity:
        """Give what sota.toml names now."""
        with self.private_key() as key:
            public_key = spki_pem(key.public_key())
        names = self.sota()["p11" if self.token else "import"]
        if self.token:
            key_name, name = names["tls_pkey_id"], names["tls_clientcert_id"]
            ders = [
                each.value for each in self.token_objects() if (each.object_class, each.id) == ("CERTIFICATE", name)
            ]
            (certificate,) = [x509.load_der_x509_certificate(bytes.fromhex(der)) for der in ders]
        else:
            key_name, name = names["tls_pkey_path"], names["tls_clientcert_path"]
            certificate = x509.load_pem_x509_certificate(Path(name).read_bytes())
        return Identity(key_name, name, certificate, public_key)

    @contextlib.contextmanager
    def private_key(self, name: str | None = None) -> Iterator[ec.EllipticCurvePrivateKey]:
        """Open the private key of that name (path or id), by default the one that sota.toml names."""
        names = self.sota()["p11" if self.token else "import"]
        if not self.token:
            yield load_pem_private_key(Path(name or names["tls_pkey_path"]).read_bytes(), None)
            return
        with self.token.private_key(name or names["tls_pkey_id"]) as key:
            yield key

    def encrypted_config(self) -> Config:
        """Read config.encrypted."""
        return json.loads(self.config_encrypted.read_bytes())

    def plaintexts(self) -> dict[str, bytes]:
        """Decrypt config.encrypted with the key that sota.toml names. Raises if that does not fit."""
        with self.private_key() as key:
            return readable_with(key, self.encrypted_config())

    def private_key_files(self) -> list[Path]:
        """Find every file below the storage folder that holds a private key."""
        files = (path for path in self.storage.rglob("*") if path.is_file())
        return sorted(path for path in files if b"PRIVATE KEY" in path.read_bytes())


def make_device(
    folder: Path,
    pki: FactoryPki,
    *,
    keys: Literal["file", "token"],
    gateway_url: str,
    est_url: str,
    san: Sequence[str] | None = None,
    curve: ec.EllipticCurve | None = None,
    config: PlainFiles = FACTORY_FILES,
    config_device: PlainFiles | None = DEVICE_FILES,
    with_device_cas: bool = False,
    token: softhsm.TokenFixture | None = None,
) -> Device:
    """Register a device in an empty folder.

    `config_device` are its own files (None: the gateway answers that it has none), `config` are all the others.
    `with_device_cas`: root.crt holds the device's CAs too. `token` is an empty token; by default one of SoftHSM's is
    made for keys="token".
    """
    for part in ("usr/lib/sota/conf.d", "var/sota", "etc/sota/conf.d", "run/secrets", "bin"):
        (folder / part).mkdir(parents=True)
    if keys == "token" and token is None:
        token = softhsm.make_token()
    curve = curve or ec.SECP256R1()
    private = None if token else ec.generate_private_key(curve)
    public = private.public_key() if private else token.add_key_pair(1, curve=curve)
    device = Device(
        folder=folder,
        token=token,
        certificate=pki.device_certificate(public, san=san),
        config=encrypted(config, public),
        config_device=None if config_device is None else {},
        est_url=est_url,
    )
    if config_device is not None:
        device.config_device = encrypted(config_device, public)
        device.config |= device.config_device
    _store_identity(device, private)
    _write(device.storage / "root.crt", pki.ca_bundle_pem(with_device_cas=with_device_cas))
    device.storage.chmod(0o700)
    _write(device.sota_toml, _sota_toml(device.storage, gateway_url, token).encode(), 0o600)
    _write(device.storage / "current-target", TARGET.encode())
    _write(folder / "etc/sota/conf.d/z-50-fioctl.toml", b'[pacman]\ntags = "main"\n')
    # A mode of its own, so that one that was not kept shows; a time of whole seconds, as the gateway's Date header.
    _write(device.config_encrypted, json.dumps(device.config).encode(), 0o640)
    past = int(time.time()) - TWO_WEEKS
    os.utime(device.config_encrypted, (past, past))
    _write(folder / "bin/fioconfig", b"#!/bin/sh\nexit 0\n", 0o755)
    _write(folder / "bin/systemctl", b'#!/bin/sh\n[ "$1" != show ] || echo inactive\n', 0o755)
    return device


def _store_identity(device: Device, private: ec.EllipticCurvePrivateKey | None) -> None:
    if private is None:
        device.token.add_certificate(3, device.certificate)
        hsm = f'[p11]\nmodule = "{device.token.module}"\npass = "{device.token.pin}"\nlabel = "{device.token.label}"\n'
        _write(device.hsm_toml, hsm.encode(), 0o600)
    else:
        _write(device.storage / "pkey.pem", key_pem(private), 0o600)
        _write(device.storage / "client.pem", certificate_pem(device.certificate))


def _sota_toml(storage: Path, gateway_url: str, token: softhsm.TokenFixture | None) -> str:
    source = "pkcs11" if token else "file"
    pkey, certificate = ("", "") if token else (f"{storage}/pkey.pem", f"{storage}/client.pem")
    text = f"""\
# Written by lmp-device-register
[tls]
server = "{gateway_url}"
ca_source = "file"
pkey_source = "{source}"
cert_source = "{source}"

[provision]
server = "{gateway_url}"
primary_ecu_hardware_id = "intel-corei7-64"

[uptane]
repo_server = "{gateway_url}/repo"
key_source = "{source}"
polling_sec = 300

[pacman]
type = "ostree+compose_apps"
ostree_server = "{gateway_url}/treehub"
packages_file = "/usr/package.manifest"
tags = "main"

[storage]
type = "sqlite"
path = "{storage}"

[import]
tls_cacert_path = "{storage}/root.crt"
tls_pkey_path = "{pkey}"
tls_clientcert_path = "{certificate}"
"""
    return text + ('\n[p11]\ntls_pkey_id = "01"\ntls_clientcert_id = "03"\n' if token else "")


def _file_state(path: Path) -> FileState:
    status = path.lstat()
    mode = stat.S_IMODE(status.st_mode)
    return FileState(path.read_bytes(), mode, status.st_mtime_ns) if path.is_file() else FileState(None, mode, None)


def _write(path: Path, content: bytes, mode: int = 0o644) -> None:
    path.write_bytes(content)
    path.chmod(mode)
