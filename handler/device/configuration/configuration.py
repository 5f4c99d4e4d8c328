"""The device's configuration: every value with its origin and its problem.

Code that needs a value demands it and gets the refusal (`demand`); code that only looks sees all problems.
The rules about a value are in one place, `Configuration.value`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from handler.crypto.bag import certificates_in_pem
from handler.device.keystore import FileKeyStore, IdentityNames
from handler.device.storage import read_regular
from handler.device.url import https_url, shown
from handler.errors import RequestRefusedError
from hsm.certificate import Certificate
from hsm.errors import UnsupportedError

from .toml_files import SotaConfig, UnreadError

FILE, TOKEN = "file", "pkcs11"
CA_FILE = "import.tls_cacert_path"
KEYS_OF_IDENTITY = {
    FILE: ("import.tls_pkey_path", "import.tls_clientcert_path"),
    TOKEN: ("p11.tls_pkey_id", "p11.tls_clientcert_id"),
}
_SERVERS = ("tls.server", "tls.ca_source", "tls.pkey_source", "tls.cert_source", CA_FILE)
OF_TOKEN = ("p11.module", "p11.label", "p11.pass")
_BASE = "import.base_path"
"""Relative names are relative to it, as in aktualizr."""
_PATHS = (CA_FILE, *KEYS_OF_IDENTITY[FILE])
_DEFAULTS = {"p11.label": "aktualizr", _BASE: "/var/sota/import"}
_certificates = lru_cache(maxsize=1)(certificates_in_pem)  # a rotation reads the configuration dozens of times
_CHOICES = {"tls.ca_source": (FILE,), "tls.pkey_source": (FILE, TOKEN), "tls.cert_source": (FILE, TOKEN)}


@dataclass(frozen=True)
class TokenConfig:
    """How to open the token."""

    module: str
    """Path of the PKCS#11 module."""
    label: str
    pin: str = field(repr=False)
    """Empty if none is set."""


@dataclass(frozen=True)
class Value:
    """One value of the configuration."""

    key: str
    text: str | None = field(repr=False)
    """None if no file has it as a text."""
    origin: str
    """The file or other place it comes from; empty if there is none."""
    problem: str | None = None
    """Why it cannot be used: key, value, file, what is expected."""
    unread: str | None = None
    """Why a file that may override it cannot be read."""


class Configuration:
    """The values of the TOML files. `storage` overrides storage.path, `config_url` the gateway's URL."""

    def __init__(
        self, search_paths: Sequence[Path], storage: Path | None = None, config_url: str | None = None
    ) -> None:
        self.sota = SotaConfig.load(search_paths)
        self._storage = storage
        self._config_url = config_url

    def values(self) -> Iterator[Value]:
        """Iterate over the values that a rotation needs."""
        names = KEYS_OF_IDENTITY.get(self.source or "", ())
        for key in (*_SERVERS, *(OF_TOKEN if self.source == TOKEN else ()), *names):
            yield self.value(key)
        if self._storage is not None:
            yield Value("storage.path", str(self._storage), "--storage-dir or STORAGE_DIR")
        else:
            yield self.value("storage.path")

    def value(self, key: str) -> Value:
        """Look a value up and judge it."""
        try:
            text, origin = self.sota.get(key), self.sota.origin(key)
        except UnreadError as error:
            return Value(key, None, "", str(error), error.problem)
        except RequestRefusedError as error:
            return Value(key, None, "", str(error))
        if text is None and key in _DEFAULTS:
            return Value(key, _DEFAULTS[key], "default")
        if text is None:
            return Value(key, None, "", self.sota.not_set(key))
        problem = None
        if key in _CHOICES and text not in _CHOICES[key]:
            expected = " or ".join(f'"{choice}"' for choice in _CHOICES[key])
            problem = f"{origin}: {key} is {text!r}: expected {expected}"
        if key == "tls.server":
            problem = _why_no_address(text, f"tls.server in {origin}")
        if key in _PATHS and not text.startswith("/"):
            base = self.value(_BASE)
            problem = base.problem
            if base.text is not None and not base.text.startswith("/"):
                problem = f"{base.origin}: {_BASE} is {base.text!r}: expected a path that begins with a slash"
            text = str(Path(base.text or "", text))
        return Value(key, text, str(origin), problem)

    def demand(self, key: str) -> str:
        """Return a value. Raises RequestRefusedError with its problem."""
        value = self.value(key)
        if value.problem is not None or value.text is None:
            raise RequestRefusedError(value.problem or self.sota.not_set(key))
        return value.text

    def demand_source(self) -> str:
        """Return where key and certificate are: FILE or TOKEN. Raises RequestRefusedError."""
        self.demand("tls.ca_source")
        source = self.demand("tls.pkey_source")
        self.demand("tls.cert_source")
        if self.sources_differ:
            raise RequestRefusedError(self.sources_differ)
        return source

    def demand_urls(self) -> tuple[str, str]:
        """Return the device gateway's URL, and that of the device's configuration. Raises RequestRefusedError."""
        server = self.demand("tls.server").rstrip("/")
        if self._config_url and (problem := _why_no_address(self._config_url, "CONFIG_URL")):
            raise RequestRefusedError(problem)
        return server, (self._config_url or f"{server}/config").rstrip("/")

    def anchors(self) -> tuple[list[Certificate], list[str]]:
        """Read the CA file; return its certificates, and notes on what is skipped. Raises RequestRefusedError."""
        path = Path(self.demand(CA_FILE))
        where = f"{path} ({CA_FILE} in {self.sota.origin(CA_FILE)})"
        mend = f"put the factory's CA certificates there, or correct {CA_FILE}"
        try:
            found, notes = _certificates(read_regular(path, follow=True))
        except OSError as error:
            raise RequestRefusedError(f"{where} cannot be read: {error.strerror}; {mend}") from error
        if not found:
            raise RequestRefusedError(f"{where} holds no readable certificates: expected one or more in PEM; {mend}")
        return found, notes

    @property
    def odd(self) -> list[str]:
        """Warnings about the files that do not prevent a rotation."""
        unsure = {each.problem for each in self.unsure()}
        unread = [text for text in self.sota.problems if text not in unsure]
        return [*(f"{text}; it overrides nothing that a rotation needs" for text in unread), *self.sota.odd]

    def unsure(self) -> Iterator[UnreadError]:
        """Iterate over the unreadable files that may override values that a rotation needs."""
        keys: dict[str, list[str]] = {}
        for each in self.values():
            if each.unread:
                keys.setdefault(each.unread, []).append(each.key)
        yield from (UnreadError(problem, *names) for problem, names in keys.items())

    def wrong(self) -> Iterator[str]:
        """Return the problems of all values but the gateway's address; missing values as one problem."""
        yield from map(str, self.unsure())
        wrong = [each for each in self.values() if each.problem and not each.unread and each.key != "tls.server"]
        missing = [each.key for each in wrong if each.problem == self.sota.not_set(each.key)]
        yield from (str(each.problem) for each in wrong if each.key not in missing)
        if missing:
            yield self.sota.not_set(*missing)
        elif self.sources_differ:
            yield self.sources_differ

    def origin_of(self, keys: Sequence[str]) -> Path | None:
        """Return the most significant file that has one of the keys."""
        return next((Path(found) for key in keys if (found := self.value(key).origin)), None)

    @property
    def sources_differ(self) -> str | None:
        """The problem that key and certificate are not in the same place, if they are not."""
        key, certificate = self.value("tls.pkey_source"), self.value("tls.cert_source")
        if key.text == certificate.text or key.problem or certificate.problem:
            return None
        return (
            f"tls.pkey_source is {key.text} ({key.origin}) and tls.cert_source is {certificate.text} "
            f"({certificate.origin}): expected key and certificate in the same place"
        )

    @property
    def source(self) -> str | None:
        """Where key and certificate are: FILE or TOKEN; None if that is not set or contradictory."""
        key, certificate = self.value("tls.pkey_source"), self.value("tls.cert_source")
        return None if key.problem or key.text != certificate.text else key.text

    @property
    def storage(self) -> Path | None:
        """The storage folder."""
        text = self.value("storage.path").text
        return self._storage or (Path(text) if text else None)

    @property
    def storages(self) -> tuple[Path | None, ...]:
        """The storage folder, and storage.path if it is another one."""
        configured = self.value("storage.path").text
        return (self.storage, *([Path(configured)] if configured and Path(configured) != self.storage else []))

    @property
    def token(self) -> TokenConfig | None:
        """How to open the token; None if keys are in files or the module is not set."""
        module, label = self.value("p11.module").text, self.value("p11.label").text
        if self.source != TOKEN or module is None or label is None:
            return None
        return TokenConfig(module, label, self.value("p11.pass").text or "")

    @property
    def names(self) -> IdentityNames | None:
        """The identity in use in its canonical form; None if it is not named."""
        values = [self.value(key) for key in KEYS_OF_IDENTITY.get(self.source or "", ())]
        texts = [each.text for each in values if each.text and not each.problem]
        if not texts or len(texts) < len(values):
            return None
        return canonical(IdentityNames(*texts), token=self.source == TOKEN)

    @property
    def ca_file(self) -> Path | None:
        """The CA file."""
        value = self.value(CA_FILE)
        return Path(value.text) if value.text and not value.problem else None

    @property
    def server(self) -> str | None:
        """The device gateway as configured, unchecked."""
        return self.value("tls.server").text

    @property
    def config_url(self) -> str | None:
        """CONFIG_URL, or the gateway's default."""
        return self._config_url or (f"{self.server.rstrip('/')}/config" if self.server else None)


def canonical(names: IdentityNames, *, token: bool) -> IdentityNames:
    """Return the names in canonical form; invalid ids stay as they are: opening the store refuses them."""
    if not token:
        return FileKeyStore(Path()).canonical(names)
    try:
        return IdentityNames(*names.ids)
    except UnsupportedError:
        return names


def _why_no_address(text: str, where: str) -> str | None:
    try:
        https_url(text)
    except ValueError as error:
        return f"{where} is {shown(text)}: {error}; expected an https URL"
    return None
