"""One PKCS#11 module, loaded once for the process, and the logins into its tokens.

Why this is per process: python-pkcs11 initialises a module as single-threaded and lets other threads run during its
calls, so two threads in it crash the interpreter, even with sessions of their own; LOCK is held around every call. A
login belongs to the process and not to a session (PKCS#11 v2.40 §2.6.4), and C_Finalize ends all of them. A refused PIN
must not be tried again by the next caller: a token locks itself after few attempts.
"""

import contextlib
import logging
import math
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from types import TracebackType

import pkcs11
from pkcs11 import exceptions as p11
from pkcs11.constants import TokenFlag

from hsm.attributes import TolerantMapper
from hsm.errors import ModuleError, ObjectConflictError, PinError, PinRefusedError, TokenAbsentError, TokenError
from hsm.stopwatch import TOKENS
from hsm.translation import translated

LOCK = threading.RLock()
FRESH = 5.0
"""Seconds without any use after which the program looks again at what it has seen."""

_WRONG_PIN = (p11.PinIncorrect, p11.PinInvalid, p11.PinLenRange)

_log = logging.getLogger(__name__)
_loaded: dict[str, "Module"] = {}


def load(path: str) -> "Module":
    """Return the module, loaded once. Raises ModuleError, and TokenError if it may load later."""
    with LOCK:
        if path not in _loaded:
            _loaded[path] = Module(path)
        return _loaded[path]


class Calls:
    """Holds the lock for calls into a module, and keeps python-pkcs11's own complaints off standard error.

    If C_FindObjectsInit fails, a finalizer ends the search that never began, fails too, and Python prints that.
    """

    def __enter__(self) -> None:
        LOCK.acquire()
        TOKENS.start()
        self._uncaught, self._unraisable = sys.excepthook, sys.unraisablehook
        sys.excepthook, sys.unraisablehook = self._excepthook, self._unraisablehook

    def __exit__(self, *_error: object) -> None:
        sys.excepthook, sys.unraisablehook = self._uncaught, self._unraisable
        TOKENS.stop()
        LOCK.release()

    def _excepthook(self, kind: type[BaseException], value: BaseException, traceback: TracebackType | None) -> None:
        if not isinstance(value, p11.PKCS11Error):
            self._uncaught(kind, value, traceback)

    def _unraisablehook(self, event: "sys.UnraisableHookArgs") -> None:
        if not isinstance(event.exc_value, p11.PKCS11Error):
            self._unraisable(event)


class Module:
    """A loaded module. Hold LOCK to call a method; each raises pkcs11.PKCS11Error unless it names another error."""

    def __init__(self, path: str) -> None:
        self.generation = 0
        """Counts the initialisations: sessions and objects of an earlier one must not even be closed."""
        self._known: list[pkcs11.Token] | None = None
        self._known_at = -math.inf
        self._logins: dict[int, pkcs11.Session] = {}
        """The session that logged in to each slot. The login lasts until it is closed: it is used for nothing else."""
        self._users: Counter[int] = Counter()
        """How many Tokens use the login to each slot."""
        self._refused: set[tuple[str, str]] = set()
        if "/" in path and not Path(path).is_file():
            raise ModuleError(f"the PKCS#11 module {path} is missing: correct p11.module, or install it")
        try:
            self._lib = pkcs11.lib(path)
        except p11.PKCS11Error as error:
            if "exception while loading" in str(error):
                raise ModuleError(f"the PKCS#11 module {path} cannot be loaded: {error}; correct p11.module") from error
            raise TokenError(
                f"the PKCS#11 module {path} does not start ({type(error).__name__} {error}): check its device"
            ) from error

    def reinitialize(self) -> None:
        """Restart the module, which ends every session and login: the only cure for one that lost its token.

        Some modules notice new tokens and free leaked objects in no other way.
        """
        self.generation += 1
        self._logins.clear()
        self._users.clear()
        self._known = None
        # A broken module says "not initialized" here, and is as good as finalized.
        with contextlib.suppress(p11.PKCS11Error):
            self._lib.finalize()
        self._lib.initialize()

    def find(self, label: str) -> pkcs11.Token:
        """Return the only token with that label. Raises TokenAbsentError for none, ObjectConflictError for two."""
        was_listed = self._known is not None
        tokens = self._tokens()
        if was_listed and label not in (token.label for token in tokens):
            self.reinitialize()
            tokens = self._tokens()
        named = [token for token in tokens if token.label == label]
        if not named:
            others = ", ".join(sorted(repr(token.label) for token in tokens)) or "none"
            raise TokenAbsentError(
                f"no token with the label {label!r} is there (found: {others}): "
                "correct p11.label, or check the token's device and driver"
            )
        if len(named) > 1:
            serials = ", ".join(token.serial.decode("ascii", "replace") for token in named)
            raise ObjectConflictError(
                f"{len(named)} tokens have the label {label!r} (serial numbers {serials}): "
                "expected one; relabel or remove the other"
            )
        return named[0]

    def _tokens(self) -> list[pkcs11.Token]:
        if self._known is not None and time.monotonic() - self._known_at <= FRESH:
            return self._known
        tokens = []
        for slot in self._lib.get_slots(token_present=True):
            try:
                token = slot.get_token()
                if token.flags & TokenFlag.TOKEN_INITIALIZED:
                    tokens.append(token)
            except p11.PKCS11Error as error:  # missing or broken: another slot may work
                _log.debug("Slot %s: %s", slot.slot_id, type(error).__name__)
        self._known, self._known_at = tokens, time.monotonic()
        return tokens

    def log_in(self, token: pkcs11.Token, pin: str) -> None:
        """Log in to the token unless this process is logged in. Raises PinError; a refused PIN is not tried again."""
        slot = token.slot.slot_id
        if (token.label, pin) in self._refused:
            raise PinError(f"the PIN of token {token.label!r} was refused and is not tried again: correct p11.pass")
        try:
            if slot not in self._logins:
                _check_pin_flags(token)
                self._logins[slot] = self._logged_in(token, pin)
            self._users[slot] += 1
        except p11.PKCS11Error as error:
            self._known_at = -math.inf
            failure = translated(error, "log in", token.label)
            # A token without a user PIN has refused none: it is about to be set.
            if isinstance(failure, PinError) and not isinstance(error, p11.UserPinNotInitialized):
                self._refused.add((token.label, pin))
            raise PinRefusedError(str(failure)) if isinstance(error, _WRONG_PIN) else failure from error

    def _logged_in(self, token: pkcs11.Token, pin: str) -> pkcs11.Session:
        if token.flags & TokenFlag.LOGIN_REQUIRED:
            with contextlib.suppress(p11.UserAlreadyLoggedIn):
                return token.open(user_pin=pin, attribute_mapper=TolerantMapper())
        return token.open(attribute_mapper=TolerantMapper())

    def is_logged_in(self, slot: int) -> bool:
        """Return whether the login into a slot's token is still valid, by using its session."""
        try:
            list(self._logins[slot].get_objects({pkcs11.Attribute.ID: b"\0"}))
        except (KeyError, p11.PKCS11Error):
            return False
        return True

    def log_out(self, slot: int) -> None:
        """Undo one log_in(); the last one closes the session."""
        self._users[slot] -= 1
        if self._users[slot] == 0:
            with contextlib.suppress(p11.PKCS11Error):
                self._logins.pop(slot).close()


def _check_pin_flags(token: pkcs11.Token) -> None:
    """Raise PinError if the PIN is locked or has one attempt left (PKCS#11 v2.40 §3.2, CK_TOKEN_INFO)."""
    if token.flags & TokenFlag.USER_PIN_LOCKED:
        raise PinError(f"the PIN of token {token.label!r} is locked: unlock it with the security officer's PIN")
    if token.flags & TokenFlag.USER_PIN_FINAL_TRY:
        raise PinError(
            f"token {token.label!r} has one attempt at its PIN left, which is not risked: "
            "log in by hand with the right PIN (pkcs11-tool --login), which gives all attempts back, and check p11.pass"
        )
    if token.flags & TokenFlag.USER_PIN_COUNT_LOW:
        _log.warning("token %r has refused a PIN since the last login", token.label)
