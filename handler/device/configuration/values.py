"""The device's configuration as far as it can be read: for commands that look, so that one mistake hides no other.

A rotation asks DeviceConfig, which refuses the whole of it for one mistake.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from handler.device.keystore import FileKeyStore, IdentityNames
from handler.errors import RequestRefusedError

from .checked import DEFAULT_LABEL, KEYS_OF_IDENTITY, TokenConfig
from .toml_files import SotaConfig

FILE, TOKEN = "file", "pkcs11"
_SERVERS = ("tls.server", "tls.ca_source", "tls.pkey_source", "tls.cert_source", "import.tls_cacert_path")
_OF_TOKEN = ("p11.module", "p11.label", "p11.pass")
_DEFAULTS = {"p11.label": DEFAULT_LABEL}
_CHOICES = {
    "tls.ca_source": (FILE,),
    "tls.pkey_source": (FILE, TOKEN),
    "tls.cert_source": (FILE, TOKEN),
}


@dataclass(frozen=True)
class Value:
    """One value of the configuration."""

    key: str
    text: str | None = field(repr=False)
    """None where no file has it, or not as a text."""
    origin: str
    """The file it comes from; another place, or empty, where no file has it."""
    problem: str | None = None


class Configured:
    """What the TOML files say. `storage` stands over storage.path where it is given, `config_url` likewise."""

    def __init__(self, search_paths: Sequence[Path], storage: Path | None, config_url: str | None) -> None:
        self.search_paths = tuple(search_paths)
        self.problems: list[str] = []
        """Files that cannot be read: what they hold is missing here, so names may be old ones."""
        self.sota = SotaConfig(self.search_paths, [])
        readable = [path for path in self._files() if self._is_readable(path)]
        if readable:
            self.sota = SotaConfig.load(readable)
        self._storage = storage
        self._config_url = config_url

    def values(self) -> Iterator[Value]:
        """Give every value that a rotation needs."""
        names = KEYS_OF_IDENTITY.get(self.source or "", ())
        for key in (*_SERVERS, *(_OF_TOKEN if self.source == TOKEN else ()), *names):
            yield self.value(key)
        if self._storage is not None:
            yield Value("storage.path", str(self._storage), "--storage-dir or STORAGE_DIR")
        else:
            yield self.value("storage.path")

    def wrong(self) -> Iterator[str]:
        """Say what is wrong with the values that say where key and certificate are, those that are missing at once."""
        wrong = [each for each in self.values() if each.problem and each.key != "tls.server"]
        missing = [each.key for each in wrong if each.problem == self.sota.not_set(each.key)]
        yield from (str(each.problem) for each in wrong if each.key not in missing)
        if missing:
            yield self.sota.not_set(*missing)
        elif self.sources_differ:
            yield self.sources_differ

    def value(self, key: str) -> Value:
        """Look one value up."""
        try:
            text, origin = self.sota.get(key), self.sota.origin(key)
        except RequestRefusedError as error:
            return Value(key, None, "", str(error))
        if text is None and key in _DEFAULTS:
            return Value(key, _DEFAULTS[key], "default")
        if text is None:
            return Value(key, None, "", self.sota.not_set(key))
        choices = _CHOICES.get(key, ())
        if choices and text not in choices:
            expected = " or ".join(f'"{choice}"' for choice in choices)
            return Value(key, text, str(origin), f"{key} is {text!r}: expected {expected}")
        return Value(key, text, str(origin))

    def origin_of(self, keys: Sequence[str]) -> Path | None:
        """Give the most significant file that has one of the keys."""
        return next((Path(found) for key in keys if (found := self.value(key).origin)), None)

    @property
    def sources_differ(self) -> str | None:
        """Say that key and certificate are not in the same place, where that is so."""
        key, certificate = self.value("tls.pkey_source"), self.value("tls.cert_source")
        if key.text == certificate.text or key.problem or certificate.problem:
            return None
        return (
            f"tls.pkey_source is {key.text} ({key.origin}) and tls.cert_source is {certificate.text} "
            f"({certificate.origin}): expected key and certificate in the same place"
        )

    @property
    def source(self) -> str | None:
        """Where key and certificate are: FILE or TOKEN; None where that is not said, or not with one voice."""
        key, certificate = self.value("tls.pkey_source"), self.value("tls.cert_source")
        return None if key.problem or key.text != certificate.text else key.text

    @property
    def storage(self) -> Path | None:
        """The storage folder."""
        if self._storage is not None:
            return self._storage
        text = self.value("storage.path").text
        return Path(text) if text else None

    @property
    def storages(self) -> tuple[Path | None, ...]:
        """The storage folder, and storage.path where that is another one."""
        configured = self.value("storage.path").text
        return (self.storage, *([Path(configured)] if configured and Path(configured) != self.storage else []))

    @property
    def token(self) -> TokenConfig | None:
        """How to open the token, its PIN empty where none is set; None where keys are in files, or module not said."""
        module = self.value("p11.module").text
        if self.source != TOKEN or module is None:
            return None
        return TokenConfig(module, self.value("p11.label").text or DEFAULT_LABEL, self.value("p11.pass").text or "")

    @property
    def names(self) -> IdentityNames | None:
        """The identity in use as the configuration names it, in the one form of its store; None where not named."""
        keys = KEYS_OF_IDENTITY.get(self.source or "")
        texts = [self.value(key).text for key in keys or ()]
        if len(texts) != len(IdentityNames.__dataclass_fields__) or not texts[0] or not texts[1]:
            return None
        names = IdentityNames(texts[0], texts[1])
        if self.source == FILE:
            return FileKeyStore(Path()).canonical(names)
        # Loaded only here: a device with keys in files needs no PKCS#11 at all.
        from hsm.errors import UnsupportedError  # noqa: PLC0415
        from hsm.names import ids_of, with_ids  # noqa: PLC0415

        try:
            return with_ids(names, *ids_of(names))
        except UnsupportedError:
            return names

    @property
    def ca_file(self) -> Path | None:
        """The CA file."""
        text = self.value("import.tls_cacert_path").text
        return Path(text) if text else None

    @property
    def server(self) -> str | None:
        """The device gateway, as it stands there."""
        return self.value("tls.server").text

    @property
    def config_url(self) -> str | None:
        """CONFIG_URL, or the gateway's."""
        return self._config_url or (f"{self.server.rstrip('/')}/config" if self.server else None)

    def _files(self) -> Iterator[Path]:
        for path in self.search_paths:
            try:
                found = sorted(path.iterdir()) if path.is_dir() else [path]
                yield from (each for each in found if each.suffix == ".toml" or each == path)
            except OSError as error:
                self.problems.append(f"{path} cannot be read: {error.strerror}; run this as root")

    def _is_readable(self, path: Path) -> bool:
        try:
            SotaConfig.load([path])
        except RequestRefusedError as error:
            self.problems.append(str(error))
            return False
        return True
