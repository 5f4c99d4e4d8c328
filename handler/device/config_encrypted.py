"""config.encrypted of this device: prepared for the new key, and made whole after a switch.

Whoever reads the file at boot (`fioconfig extract`) has only the key that sota.toml names. What was cut off between the
switch of sota.toml and the replacement of config.encrypted is therefore mended here, by evidence: a value that the key
in use can decrypt stays, any other is decrypted with the other key and encrypted to the one in use. By then a value
that no key reads is only warned of: the switch is not held up by a file that was lost before.
"""

import hashlib
import logging
import os
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from handler.crypto import encrypted_values as encrypted_config
from handler.errors import RefusedError, RequestRefusedError

from .storage import atomic_write, is_mount_point, put_in_place, read_regular, remove

log = logging.getLogger(__name__)

FETCHED_ANEW = 0
"""The modification time (ns) of a file that fioconfig is to fetch as a whole with its next check-in."""
KeyLoader = Callable[[], ec.EllipticCurvePrivateKey]


class LocalConfig:
    """The file `path` (STORAGE_DIR/config.encrypted) and the copy that waits at `aside`."""

    def __init__(self, path: Path, aside: Path) -> None:
        self._path = path
        self._aside = aside

    def digest(self) -> str | None:
        """SHA-256 (hex) of the file as it is now; None where the device has none."""
        data = self._read()
        return None if data is None else hashlib.sha256(data).hexdigest()

    def has_encrypted_values(self) -> bool:
        """Tell whether anything in it is encrypted. Raises RefusedError where it is not such a file."""
        data = self._read()
        return data is not None and encrypted_config.has_encrypted_values(self._parse(data))

    def check_replaceable(self) -> None:
        """Raise RequestRefusedError where the file can be written, but not replaced as a whole."""
        if is_mount_point(self._path):
            raise RequestRefusedError(
                f"{self._path} is a mount point by itself, so it cannot be replaced as a whole: expected its folder to "
                "be mounted instead"
            )

    def check_readable(self, key: ec.EllipticCurvePrivateKey) -> None:
        """Raise RefusedError unless the key decrypts every encrypted value."""
        data = self._read()
        if data is not None:
            encrypted_config.check_readable(self._parse(data), key)

    def is_readable(self, key: ec.EllipticCurvePrivateKey) -> bool:
        """Tell whether the key decrypts every encrypted value."""
        try:
            self.check_readable(key)
        except RefusedError:
            return False
        return True

    def prepare(self, old: ec.EllipticCurvePrivateKey, new: ec.EllipticCurvePrivateKey) -> str | None:
        """Encrypt its values to the new key and keep that aside. Give the digest of the file it was made from.

        Where the file was torn since, the copy that was kept aside before stays. Raises RefusedError, OSError.
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
        """Make the file readable with `new`, the key in use; tell whether it had to be changed. Can be run again.

        Where the file is still the one that the copy aside was made from, the copy takes its place: no key and no room
        on the disk is needed. fioconfig compares its modification time with the server's, so it stays as it was; where
        the file was torn, what it was is not known, and it is 1970's.
        """
        data = self._read()
        if data is None:
            remove(self._aside)
            return False
        mtime_ns = self._path.stat().st_mtime_ns if self._is_whole(data) else FETCHED_ANEW
        if prepared_from == hashlib.sha256(data).hexdigest() and self._has_copy():
            put_in_place(self._path, self._aside, mtime_ns=mtime_ns)
            return True
        try:
            config, changed = self._content(data)
        except RefusedError as error:
            log.warning("%s; fioconfig fetches it anew", error)
            os.utime(self._path, ns=(FETCHED_ANEW, FETCHED_ANEW))
            remove(self._aside)
            return False
        if encrypted_config.has_encrypted_values(config) and not _reads(new(), config):
            old_key, new_key = old(), new()
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
            return read_regular(self._path, follow=True)
        except FileNotFoundError:
            return None

    def _has_copy(self) -> bool:
        return self._aside.is_file() and not self._aside.is_symlink()

    def _content(self, data: bytes) -> tuple[encrypted_config.ConfigEntries, bool]:
        """Parse the file, or the copy aside where the file was torn, and tell which. Raises RefusedError."""
        try:
            return self._parse(data), False
        except RefusedError as error:
            if not self._has_copy():
                raise
            log.warning("%s; the copy that was kept aside takes its place", error)
            return self._parse(read_regular(self._aside)), True

    def _is_whole(self, data: bytes) -> bool:
        try:
            self._parse(data)
        except RefusedError:
            return False
        return True

    def _parse(self, data: bytes) -> encrypted_config.ConfigEntries:
        return encrypted_config.parse_config(data, str(self._path))


def _reads(key: ec.EllipticCurvePrivateKey, config: encrypted_config.ConfigEntries) -> bool:
    try:
        encrypted_config.check_readable(config, key)
    except RefusedError:
        return False
    return True
