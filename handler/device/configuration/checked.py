"""What a rotation needs of the merged configuration, checked."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509

from handler.device.keystore import FileKeyStore, IdentityNames
from handler.device.url import https_url, shown
from handler.errors import RequestRefusedError

from .toml_files import SotaConfig

DEFAULT_LABEL = "aktualizr"


@dataclass(frozen=True)
class TokenConfig:
    """How to open the token."""

    module: str
    """Path of the PKCS#11 module."""
    label: str
    pin: str = field(repr=False)


@dataclass(frozen=True)
class DeviceConfig:
    """What a rotation needs of the configuration, checked."""

    server: str
    """The device gateway: an https URL without a slash at its end."""
    config_url: str
    ca_file: Path
    """PEM, the only trust anchors for gateway and EST server."""
    storage: Path
    token: TokenConfig | None
    """None where key and certificate are files."""
    names: IdentityNames
    """The identity in use, as the configuration names it."""

    @classmethod
    def from_sota(cls, sota: SotaConfig, *, storage: Path | None, config_url: str | None) -> "DeviceConfig":
        """Take what is needed from the configuration; `storage` and `config_url` stand over it where given.

        Raises RequestRefusedError that names the key, its value, its file and what is expected.
        """
        _one_of(sota, "tls.ca_source", ("file",))
        source = _one_of(sota, "tls.pkey_source", ("file", "pkcs11"))
        if _one_of(sota, "tls.cert_source", ("file", "pkcs11")) != source:
            raise RequestRefusedError(
                f'tls.pkey_source is "{source}" ({sota.origin("tls.pkey_source")}) and tls.cert_source is another '
                f"({sota.origin('tls.cert_source')}): expected key and certificate in the same place"
            )
        server = _url(sota.require("tls.server"), f"tls.server in {sota.origin('tls.server')}")
        return cls(
            server=server,
            config_url=_url(config_url, "CONFIG_URL") if config_url else f"{server}/config",
            ca_file=_ca_file(sota),
            storage=storage or Path(sota.require("storage.path")),
            token=_token(sota) if source == "pkcs11" else None,
            names=_names(sota, *KEYS_OF_IDENTITY[source]),
        )


KEYS_OF_IDENTITY = {
    "file": FileKeyStore.sota_keys,
    "pkcs11": ("p11.tls_pkey_id", "p11.tls_clientcert_id"),
}


def _names(sota: SotaConfig, key: str, certificate: str) -> IdentityNames:
    return IdentityNames(sota.require(key), sota.require(certificate))


def _token(sota: SotaConfig) -> TokenConfig:
    return TokenConfig(
        module=sota.require("p11.module"),
        label=sota.get("p11.label") or DEFAULT_LABEL,
        pin=sota.require("p11.pass"),
    )


def _one_of(sota: SotaConfig, key: str, choices: Sequence[str]) -> str:
    value = sota.require(key)
    if value not in choices:
        expected = " or ".join(f'"{choice}"' for choice in choices)
        raise RequestRefusedError(f"{sota.origin(key)}: {key} is {value!r}: expected {expected}")
    return value


def _url(text: str, where: str) -> str:
    try:
        return https_url(text)
    except ValueError as error:
        raise RequestRefusedError(
            f"{where} is {shown(text)}, {error}: expected an https URL with a host and without credentials"
        ) from None


def _ca_file(sota: SotaConfig) -> Path:
    key = "import.tls_cacert_path"
    path = Path(sota.require(key))
    try:
        x509.load_pem_x509_certificates(path.read_bytes())
    except OSError as error:
        raise RequestRefusedError(f"{path} ({key} in {sota.origin(key)}) cannot be read: {error.strerror}") from error
    except (ValueError, x509.InvalidVersion) as error:
        raise RequestRefusedError(
            f"{path} ({key} in {sota.origin(key)}) holds no readable certificates: expected one or more in PEM"
        ) from error
    return path
