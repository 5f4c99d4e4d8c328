"""A PIN that the token refused, so that no later call tries it again: a TPM locks its token after two attempts.

`STORAGE_DIR/renew-client-cert/refused-pin` holds the label, a random salt and the scrypt hash of label and PIN, never
the PIN. It is removed when a token accepts the configured PIN. Without disk space for it no PIN is tried.
"""

import hashlib
import hmac
import json
import logging
import os
import secrets
from pathlib import Path

from handler.errors import describe
from hsm.errors import PinError, TokenError

from .storage import FOLDER, atomic_write, make_folder, read_regular, remove

ROOM = 32 * 1024
"""Bytes for the note and the file system's overhead."""

_log = logging.getLogger(__name__)


class RefusedPin:
    """The file in a storage folder."""

    def __init__(self, storage: Path) -> None:
        self._path = storage / FOLDER / "refused-pin"

    def check(self, label: str, pin: str) -> None:
        """Raise hsm.errors.PinError if that token has refused that PIN, TokenError if a refusal could not be noted."""
        if self.is_noted(label, pin):
            raise PinError(
                f"token {label!r} has refused this PIN before, so it is not tried again: correct p11.pass, or remove "
                f"{self._path} if the token's PIN was changed to this one"
            )
        self._check_room(label)

    def is_noted(self, label: str, pin: str) -> bool | None:
        """Return whether the last PIN that the token refused is this one; None if none is noted for that token."""
        try:
            noted = json.loads(read_regular(self._path).decode("ascii"))
            if hmac.compare_digest(noted["hash"], _hash(noted["salt"], label, pin)):
                return True
            return False if noted["label"] == label else None
        except (OSError, ValueError, KeyError, TypeError):  # missing or not ours
            return None

    def _check_room(self, label: str) -> None:
        """Raise hsm.errors.TokenError if the note cannot be written."""
        folder = self._path.parent if os.path.isdir(self._path.parent) else self._path.parent.parent  # noqa: PTH112
        try:
            disk = os.statvfs(folder)
        except OSError:  # no storage folder: reported by the code that needs it
            return
        if not os.access(folder, os.W_OK | os.X_OK, effective_ids=True):  # as a user who is not root
            raise TokenError(
                f"the PIN of token {label!r} is not tried, because {folder} cannot be written: run as root"
            )
        if os.path.isdir(self._path):  # noqa: PTH112
            raise TokenError(
                f"the PIN of token {label!r} is not tried, because a refusal could not be noted: {self._path} is a "
                "folder; move it away"
            )
        if disk.f_flag & os.ST_RDONLY or disk.f_bavail * disk.f_frsize < ROOM or (disk.f_files and not disk.f_favail):
            raise TokenError(
                f"the PIN of token {label!r} is not tried, because a refusal could not be noted in {folder}, and a "
                "token locks itself after some: expected a file system that is writable and not full; make room there"
            )

    def refused(self, label: str, pin: str) -> None:
        """Note that the token has refused that PIN."""
        salt = secrets.token_hex(16)
        try:
            make_folder(self._path.parent)
            note = {"salt": salt, "hash": _hash(salt, label, pin), "label": label}
            atomic_write(self._path, json.dumps(note).encode(), mode=0o600)
        except OSError as error:
            _log.warning("the refused PIN could not be noted: %s", describe(error))

    def accepted(self) -> None:
        """Forget what was noted."""
        try:
            remove(self._path)
        except OSError as error:
            _log.warning("the note of a refused PIN could not be removed: %s", describe(error))


def _hash(salt: str, label: str, pin: str) -> str:
    text = json.dumps([label, pin]).encode()
    return hashlib.scrypt(text, salt=bytes.fromhex(salt), n=2**14, r=8, p=1).hex()
