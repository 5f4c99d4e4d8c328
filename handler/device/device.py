"""This device as its configuration describes it: its folders, servers, key store, and the identity in use."""

import ssl
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric import ec

from handler.device.configuration import configuration
from handler.errors import RequestRefusedError
from hsm.certificate import Certificate

from .keystore import FileKeyStore, IdentityNames, KeyStore, check_pair
from .storage import is_same_file

if TYPE_CHECKING:
    from hsm.token import Token


class Device:
    """The configuration (read again after every change) and its key store.

    `token_wait`: seconds to wait for a missing token when its store is opened. `server`, an https URL, and `config_url`
    have no slash at their end. `ca_file` (PEM) holds the only trust anchors for both servers. `token` is None if keys
    are in files. `names`: the identity in use, as the configuration named it when it was read.
    """

    def __init__(
        self,
        search_paths: Sequence[Path],
        storage: Path | None = None,
        config_url: str | None = None,
        *,
        token_wait: float = 0.0,
    ) -> None:
        self._configured = partial(configuration.Configuration, search_paths, storage, config_url)
        self._token_wait = token_wait
        self._store: KeyStore | None = None
        self._open_token: Token | None = None
        self._read()

    def authenticate(self, context: ssl.SSLContext, names: IdentityNames) -> None:
        """Make the context present that identity: the one certificate, without a chain."""
        self.store.authenticate(context, names)

    @property
    def folders(self) -> set[Path]:
        """Where files of this device may be replaced: the storage folder and those of the TOML files."""
        return {self.storage, *(file.path.resolve().parent for file in self.sota.files if file.problem is None)}

    @property
    def config_encrypted(self) -> Path:
        """fioconfig's copy of the device's whole configuration."""
        return self.storage / "config.encrypted"

    @property
    def store(self) -> KeyStore:
        """The key store, opened on first use."""
        return self._store or self.open_store()

    def open_store(self, key_ids: Sequence[str] = (), certificate_ids: Sequence[str] = ()) -> KeyStore:
        """Open the key store; the ids are those that a rotation may use in a token. Raises hsm.errors.TokenError.

        Opening it again with other ids does not log in again.
        """
        if self.token is None:
            self._store = FileKeyStore(self.storage)
            return self._store
        # Loaded only here: a device with keys in files needs no PKCS#11.
        from hsm.keystore import TokenKeyStore  # noqa: PLC0415
        from hsm.token import Token  # noqa: PLC0415

        from .refused_pin import RefusedPin  # noqa: PLC0415

        if self._open_token is None:
            token = Token(self.token.module, self.token.label, self.token.pin, RefusedPin(self.storage))
            if self._token_wait > 0:
                from hsm.presence import wait_for_token  # noqa: PLC0415

                wait_for_token(token, self._token_wait)
            self._open_token = token
        try:
            self._store = TokenKeyStore(self._open_token, key_ids, certificate_ids, in_use=self.names_in_use)
        except ValueError as error:  # from a request made when the key was in a file
            raise RequestRefusedError(
                f"this rotation was requested with ids that no token has: {error}; request it again with fioctl"
            ) from error
        return self._store

    def close(self) -> None:
        """Close the key store."""
        if self._store is not None:
            self._store.close()
            self._store = self._open_token = None

    @property
    def is_slow(self) -> bool:
        """Whether operations with the key take seconds, so that nothing should run beside them."""
        return self._open_token is not None and self._open_token.is_slow

    def names_in_use(self, *known: IdentityNames) -> IdentityNames:
        """Return the names of the identity that the configuration on disk names now.

        If they lead to the files of one of `known` (a link, another spelling), those names are returned.
        """
        self._read()
        names = configuration.canonical(self.names, token=self.token is not None)
        if self.token is not None or names in known:
            return names
        for each in known:
            if is_same_file(each.key, names.key) and is_same_file(each.certificate, names.certificate):
                return each
        return names

    def _read(self) -> None:
        """Read all that a rotation needs. Raises RequestRefusedError for the first problem."""
        now = self._configured()
        source = now.demand_source()
        self.sota, self.sota_keys = now.sota, configuration.KEYS_OF_IDENTITY[source]
        self.server, self.config_url = now.demand_urls()
        now.anchors()
        of_token = map(now.demand, configuration.OF_TOKEN)
        self.token = configuration.TokenConfig(*of_token) if source == configuration.TOKEN else None
        self.ca_file = Path(now.demand(configuration.CA_FILE))
        self.storage = now.storage or Path(now.demand("storage.path"))
        self.names = IdentityNames(*map(now.demand, self.sota_keys))

    def switch(self, names: IdentityNames) -> bool:
        """Make the configuration name another identity, in one atomic replacement; return whether it changed.

        Raises RequestRefusedError, OSError.
        """
        if self.names_in_use(names) == names:
            return False
        key, certificate = self.sota_keys
        self.sota.update({key: names.key, certificate: names.certificate})
        return True

    def check_not_in_use(self, names: IdentityNames) -> None:
        """Raise RequestRefusedError if key or certificate of `names` are in use."""
        used = self.names_in_use()
        same = is_same_file if self.token is None else str.__eq__
        if same(used.key, names.key) or same(used.certificate, names.certificate):
            raise RequestRefusedError(
                f"{names.key} and {names.certificate} were meant for the new identity, but the configuration names "
                f"{used.key} and {used.certificate}: nothing of an identity in use is touched"
            )

    def discard(self, names: IdentityNames) -> None:
        """Remove an identity that a rotation made and that is not in use. Raises RefusedError, OSError, TokenError."""
        self.check_not_in_use(names)
        self.store_of(names).discard(names)

    def store_of(self, names: IdentityNames) -> KeyStore:
        """Return the store of these names: the device may have moved its identity from files to a token."""
        return FileKeyStore(self.storage) if names.key.startswith("/") else self.store

    def identity(self, names: IdentityNames) -> tuple[ec.EllipticCurvePrivateKey, Certificate]:
        """Load the key and certificate, which must belong together. Raises RefusedError, hsm.errors.TokenError."""
        certificate = self.store.certificate(names.certificate)
        key = self.store.key(names.key)
        check_pair(names, key, certificate)
        return key, certificate
