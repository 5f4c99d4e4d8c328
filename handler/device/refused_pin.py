"""A PIN that the token refused, so that no later call tries it again: a TPM locks its token after two attempts.

`STORAGE_DIR/renew-client-cert/refused-pin` holds the label, a random salt and the scrypt hash of label and PIN, never
the PIN itself. It goes when a token accepts the PIN that is configured by then. Without room for it, no PIN is tried.
"""

import hashlib
import hmac
import json
import logging
import os
import secrets
from pathlib import Path

from handler.device.storage import FOLDER
from hsm.errors import PinError, TokenError

from .storage import atomic_write, make_folder, read_regular, remove

ROOM = 32 * 1024
"""Bytes: the note, and what a file system wants beside it."""

_log = logging.getLogger(__name__)


class RefusedPin:
    """The file in a storage folder."""

    def __init__(self, storage: Path) -> None:
        self._path = storage / FOLDER / "refused-pin"

    def check(self, label: str, pin: str) -> None:
        """Raise hsm.errors.PinError where the token of that label has refused that PIN before.

        Raises hsm.errors.TokenError, which may pass, where a refusal could not be noted.
        """
        if self._was(label, pin) is not True:
            self._check_room(label)
        else:
            raise PinError(
                f"token {label!r} has refused this PIN before, so it is not tried again: correct p11.pass, or remove "
                f"{self._path} if the token's PIN was changed to this one"
            )

    def was_another(self, label: str, pin: str) -> bool:
        """Tell whether the last PIN that the token of that label refused is another one."""
        return self._was(label, pin) is False

    def _was(self, label: str, pin: str) -> bool | None:
        """Tell whether the refusal that is noted was of that PIN; None if none of that token is noted."""
        try:
            noted = json.loads(read_regular(self._path).decode("ascii"))
            if hmac.compare_digest(noted["hash"], _hash(noted["salt"], label, pin)):
                return True
            return False if noted["label"] == label else None
        except (OSError, ValueError, KeyError, TypeError):  # not there, or not from here
            return None

    def _check_room(self, label: str) -> None:
        """Raise hsm.errors.TokenError where the note would find no room."""
        folder = self._path.parent if self._path.parent.is_dir() else self._path.parent.parent
        try:
            disk = os.statvfs(folder)
        except OSError:  # there is no storage folder: whoever needs it says so
            return
        if disk.f_flag & os.ST_RDONLY or disk.f_bavail * disk.f_frsize < ROOM or (disk.f_files and not disk.f_favail):
            raise TokenError(
                f"the PIN of token {label!r} is not tried, because a refusal could not be noted in {folder} (a token "
                "locks itself after some): expected a file system that is writable and not full; make room there"
            )

    def refused(self, label: str, pin: str) -> None:
        """Note that the token has refused that PIN."""
        salt = secrets.token_hex(16)
        try:
            make_folder(self._path.parent)
            note = {"salt": salt, "hash": _hash(salt, label, pin), "label": label}
            atomic_write(self._path, json.dumps(note).encode(), mode=0o600)
        except OSError as error:
            _log.warning("the refused PIN could not be noted: %s", error)

    def accepted(self) -> None:
        """Forget what was noted."""
        try:
            remove(self._path)
        except OSError as error:
            _log.warning("%s", error)


def _hash(salt: str, label: str, pin: str) -> str:
    text = json.dumps([label, pin]).encode()
    return hashlib.scrypt(text, salt=bytes.fromhex(salt), n=2**14, r=8, p=1).hex()
