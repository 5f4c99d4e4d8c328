"""config.encrypted of this device: prepared for the new key, and made whole after a switch.

At boot `fioconfig extract` reads it with the key that sota.toml names. If a call was cut off between the switch of
sota.toml and the replacement of config.encrypted, the file is repaired here, value by value: what the key in use
decrypts stays, anything else is re-encrypted with the other key's help. A value that no key decrypts is only a warning
then: it was lost before.
"""

import hashlib
import logging
import os
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from handler.crypto import encrypted_values as encrypted_config
from handler.errors import RefusedError, RequestRefusedError

from .storage import NotRegularError, atomic_write, put_in_place, read_regular, remove, why_irreplaceable

log = logging.getLogger(__name__)

FETCHED_AGAIN = 0
"""The modification time (ns) that makes fioconfig fetch the whole file with its next check-in."""
MAX_BYTES = 4_000_000
"""Twice the largest answer of the gateway, from which fioconfig made the file."""
KeyLoader = Callable[[], ec.EllipticCurvePrivateKey]


class LocalConfig:
    """The file `path` (STORAGE_DIR/config.encrypted) and the copy that waits at `aside`."""

    def __init__(self, path: Path, aside: Path) -> None:
        self._path = path
        self._aside = aside

    def digest(self) -> str | None:
        """SHA-256 (hex) of the file; None if the device has none."""
        data = self._read()
        return None if data is None else hashlib.sha256(data).hexdigest()

    def has_encrypted_values(self) -> bool:
        """Return whether any value is encrypted. Raises RefusedError if the file is no configuration."""
        data = self._read()
        return data is not None and encrypted_config.has_encrypted_values(self._parse(data))

    def check_replaceable(self) -> None:
        """Raise RequestRefusedError if the file cannot be replaced as a whole."""
        if why := why_irreplaceable(self._path):
            raise RequestRefusedError(why)

    def check_readable(self, key: ec.EllipticCurvePrivateKey) -> None:
        """Raise RefusedError unless the key decrypts every encrypted value."""
        data = self._read()
        if data is not None:
            encrypted_config.check_readable(self._parse(data), key)

    def is_readable(self, key: ec.EllipticCurvePrivateKey) -> bool:
        """Return whether the key decrypts every encrypted value."""
        return not _refuses(lambda: self.check_readable(key))

    def prepare(self, old: ec.EllipticCurvePrivateKey, new: ec.EllipticCurvePrivateKey) -> str | None:
        """Put a copy encrypted to the new key aside. Returns the digest of the file that it was made from.

        If the file is torn, the earlier copy aside is the source. Raises RefusedError, OSError.
        """
        data = self._read()
        if data is None:
            remove(self._aside)
            return None
        config, _ = self._content(data)
        config, _ = encrypted_config.reencrypt(config, old, new, lenient=True)
        atomic_write(self._aside, encrypted_config.dump_config(config), mode=0o600)
        return hashlib.sha256(data).hexdigest()

    def settle(self, prepared_from: str | None, old: KeyLoader, new: KeyLoader) -> bool:
        """Make the file readable with `new`, the key in use; return whether it changed. Idempotent.

        While the file is the one that the copy aside was made from, the copy replaces it, which needs neither a key nor
        disk space. The modification time, which fioconfig compares with the server's, is kept; that of a torn file is
        set to 1970.
        """
        data = self._read()
        if data is None:
            remove(self._aside)
            return False
        mtime_ns = FETCHED_AGAIN if _refuses(lambda: self._parse(data)) else self._path.stat().st_mtime_ns
        if prepared_from == hashlib.sha256(data).hexdigest() and self._has_copy():
            put_in_place(self._path, self._aside, mtime_ns=mtime_ns)
            return True
        try:
            config, changed = self._content(data)
        except RefusedError as error:
            log.warning("%s; fioconfig fetches it again", error)
            os.utime(self._path, ns=(FETCHED_AGAIN, FETCHED_AGAIN))
            remove(self._aside)
            return False
        new_key = new() if encrypted_config.has_encrypted_values(config) else None
        if new_key and _refuses(lambda: encrypted_config.check_readable(config, new_key)):
            old_key = old()
            try:
                config, reencrypted = encrypted_config.reencrypt(
                    config, old_key, new_key, prefer_new=True, lenient=True
                )
                changed |= reencrypted
            except RefusedError as error:
                log.warning("%s: %s", self._path, error)
        if changed:
            atomic_write(self._path, encrypted_config.dump_config(config), mtime_ns=mtime_ns)
        remove(self._aside)
        return changed

    def forget(self) -> None:
        """Remove the copy aside."""
        remove(self._aside)

    def _read(self) -> bytes | None:
        try:
            return read_regular(self._path, MAX_BYTES + 1, follow=True)
        except FileNotFoundError:
            return None
        except NotRegularError:  # `_parse` refuses it
            return b""

    def _has_copy(self) -> bool:
        return self._aside.is_file() and not self._aside.is_symlink()

    def _content(self, data: bytes) -> tuple[encrypted_config.ConfigEntries, bool]:
        """Parse the file, or the copy aside (then True) if the file is torn. Raises RefusedError."""
        try:
            return self._parse(data), False
        except RefusedError as error:
            if not self._has_copy():
                raise
            log.warning("%s; the copy that was kept aside replaces it", error)
            return encrypted_config.parse_config(read_regular(self._aside), str(self._aside)), True

    def _parse(self, data: bytes) -> encrypted_config.ConfigEntries:
        if not self._path.is_file() or len(data) > MAX_BYTES:
            wrong = f"has more than {MAX_BYTES} bytes" if data else "is not a regular file"
            raise RefusedError(f"{self._path} {wrong}: remove it; fioconfig fetches it again")
        return encrypted_config.parse_config(data, str(self._path))


def _refuses(check: Callable[[], object]) -> bool:
    try:
        check()
    except RefusedError:
        return True
    return False
