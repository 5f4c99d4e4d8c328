"""A PIN that the token refused, so that no later call tries it again: a TPM locks its token after two attempts.

`STORAGE_DIR/renew-client-cert/refused-pin` holds a random salt and the scrypt hash of label and PIN, never the PIN
itself. It goes when a token accepts the PIN that is configured by then.
"""

import hashlib
import hmac
import json
import logging
import secrets
from pathlib import Path

from hsm.errors import PinError

from .pending import FOLDER
from .storage import atomic_write, make_folder, remove

_log = logging.getLogger(__name__)


class RefusedPin:
    """The file in a storage folder."""

    def __init__(self, storage: Path) -> None:
        self._path = storage / FOLDER / "refused-pin"

    def check(self, label: str, pin: str) -> None:
        """Raise hsm.errors.PinError where the token of that label has refused that PIN before."""
        try:
            noted = json.loads(self._path.read_text("ascii"))
            known = hmac.compare_digest(noted["hash"], _hash(noted["salt"], label, pin))
        except (OSError, ValueError, KeyError, TypeError):  # not there, or not from here
            return
        if known:
            raise PinError(
                f"token {label!r} has refused this PIN before, so it is not tried again: correct p11.pass, or remove "
                f"{self._path} if the token's PIN was changed to this one"
            )

    def refused(self, label: str, pin: str) -> None:
        """Note that the token has refused that PIN."""
        salt = secrets.token_hex(16)
        try:
            make_folder(self._path.parent)
            atomic_write(self._path, json.dumps({"salt": salt, "hash": _hash(salt, label, pin)}).encode(), mode=0o600)
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
