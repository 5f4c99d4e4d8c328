"""A token: found by its label, logged in to once, used by one thread at a time.

    token = Token(module, label, pin)
    with token.session("read the certificate") as session:
        ...                                  # python-pkcs11 calls, under the process's one lock

What pkcs11 raises inside becomes an hsm.errors.TokenError that names the operation, and the session is not used again:
after a failed C_Sign, for instance, it stays in OperationActive. The next use opens a new one; if that fails too, or
the login is gone, it restarts the module first: the only cure for a token that was away.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

import pkcs11
from pkcs11 import exceptions as p11

from hsm import module as modules
from hsm.attributes import TolerantMapper
from hsm.errors import MixedHandlesError, PinError, PinRefusedError, TokenError
from hsm.translation import translated

if TYPE_CHECKING:
    from hsm.keys import TokenPrivateKey
    from hsm.objects import Found
    from hsm.slots import ObjectId

SLOW = 1.0
"""Seconds: a token that takes longer for an operation with a key is slow."""
SAID_AGAIN = 10.0
"""Seconds after which a message about waiting is repeated."""
_TOO_MANY = 2
"""Consecutive failures after which a new session is not enough."""

_log = logging.getLogger(__name__)


class PinMemory(Protocol):
    """Remembers a refused PIN for longer than a process: a TPM locks its token after two wrong attempts."""

    def check(self, label: str, pin: str) -> None:
        """Raise PinError if that token has refused that PIN before."""

    def refused(self, label: str, pin: str) -> None:
        """Note that it has refused that PIN."""

    def accepted(self) -> None:
        """Forget refusals: the configured PIN is right."""


class Token:
    """The token with that label in a PKCS#11 module (a path, or a name for the loader), with the user's PIN.

    `memory` is asked before the PIN is tried, and told the result.
    """

    def __init__(self, module: str, label: str, pin: str, memory: PinMemory | None = None) -> None:
        self.module = module
        self.label = label
        self._pin = pin
        self._memory = memory
        self._found: pkcs11.Token | None = None
        self._session: pkcs11.Session | None = None
        self._generation = 0
        self._failures = 0
        self._used_at = 0.0
        self.is_slow = False
        """Whether an operation with a key has taken long."""
        self.seen: list[Found] | None = None
        """The objects of the token, until it may have changed (hsm.objects)."""
        self.missing: set[str] = set()
        """What was missing even after a restart of the module."""
        self.keys: dict[ObjectId, TokenPrivateKey] = {}
        """The loaded keys, with what they have shown."""

    def __repr__(self) -> str:
        return f"Token({self.module!r}, {self.label!r})"

    def open(self) -> None:
        """Load the module, find the token and log in, so that their problems show now.

        Raises ModuleError, TokenAbsentError, PinError, ObjectConflictError (two tokens with that label), TokenError.
        """
        with self.session("open a session"):
            pass

    def session(self, operation: str = "use a session") -> contextlib.AbstractContextManager[pkcs11.Session]:
        """Hold the lock and the open read/write session for one operation, named as in "could not …". Can be nested.

        Raises TokenError and its subclasses for whatever the module raises.
        """
        return _Use(self, operation)

    def changed(self, seen: "list[Found] | None" = None) -> None:
        """Note what is there now, None if another program may have made or destroyed objects: forget what was seen.

        OP-TEE gives a destroyed object's handle to the next one.
        """
        with modules.LOCK:
            self.seen = seen
            if seen is not None:
                self.missing.clear()

    @contextlib.contextmanager
    def working(self, what: str) -> Iterator[None]:
        """Run an operation with a key: while it takes long, say so; remember that the token is slow."""
        began, done = time.monotonic(), threading.Event()
        threading.Thread(target=self._say, args=(what, done), name="token", daemon=True).start()
        try:
            yield
        finally:
            done.set()
        seconds = time.monotonic() - began
        if seconds > SLOW and not self.is_slow:
            self.is_slow = True
            _log.warning("Token %r took %.0f s to %s: waiting for it each time.", self.label, seconds, what)

    def _say(self, what: str, done: threading.Event) -> None:
        seconds = pause = SLOW
        while not done.wait(pause):
            _log.info("Waiting for token %r to %s (%.0f s).", self.label, what, seconds)
            pause = SAID_AGAIN
            seconds += pause

    def reinitialize(self) -> None:
        """Restart the module (frees what tpm2-pkcs11 leaks with every generated key). Raises TokenError."""
        with modules.LOCK:
            module = modules.load(self.module)
            try:
                module.reinitialize()
            except p11.PKCS11Error as error:
                raise translated(error, "start the module again", self.label) from error

    def close(self) -> None:
        """Close the session and log out. A later use opens it again."""
        with modules.LOCK:
            self._drop()
            self.seen = None
            self.keys.clear()
            if self._found is not None:
                module = modules.load(self.module)
                if module.generation == self._generation:
                    module.log_out(self._found.slot.slot_id)
                self._found = None

    def current(self) -> pkcs11.Session:
        """Return the open session, or open one, with the lock held. Raises what pkcs11 raises. For session()."""
        module = modules.load(self.module)
        try:
            if self._failures >= _TOO_MANY:
                module.reinitialize()
            return self._attached(module)
        except p11.PKCS11Error:
            # No PIN is at risk: log_in() raises other errors for a refused one.
            module.reinitialize()
            return self._attached(module)

    def _attached(self, module: modules.Module) -> pkcs11.Session:
        if self._found is not None and module.generation == self._generation:
            if self._session is not None:
                if time.monotonic() - self._used_at > modules.FRESH:
                    self.changed()
                return self._session
            if not module.is_logged_in(self._found.slot.slot_id):
                module.reinitialize()
        if self._found is None or module.generation != self._generation:
            self._session = None
            self._found = None
            if not self._pin:
                raise PinError(f"no PIN for token {self.label!r}: set p11.pass")
            found = module.find(self.label)
            self._log_in(module, found)
            self._found, self._generation = found, module.generation
        self.changed()
        self._session = self._found.open(rw=True, attribute_mapper=TolerantMapper())
        return self._session

    def _log_in(self, module: modules.Module, found: pkcs11.Token) -> None:
        if self._memory is None:
            module.log_in(found, self._pin)
            return
        self._memory.check(self.label, self._pin)
        try:
            module.log_in(found, self._pin)
        except PinRefusedError:
            self._memory.refused(self.label, self._pin)
            raise
        self._memory.accepted()

    def note(self, operation: str, error: BaseException | None) -> None:
        """Note how an operation ended. Raises the TokenError for an error of pkcs11."""
        self._used_at = time.monotonic()
        if error is None:
            self._failures = 0
        elif isinstance(error, TokenError):
            error.label = self.label
            if isinstance(error, MixedHandlesError):
                self._drop()
                self._failures = _TOO_MANY
        else:
            # Also after an interrupt, which may leave a search or signature half done.
            self._drop()
            if isinstance(error, p11.PKCS11Error):
                raise self._counted(translated(error, operation, self.label)) from error

    def _counted(self, failure: TokenError) -> TokenError:
        self._failures += not failure.final
        failure.label = self.label
        return failure

    def _drop(self) -> None:
        session, self._session = self._session, None
        # A session of an earlier generation may share its number with a new one.
        if session is not None and modules.load(self.module).generation == self._generation:
            with contextlib.suppress(p11.PKCS11Error):
                session.close()


class _Use:
    """One use of a token's session.

    A class, and no error kept in a variable, so that no frame and error refer to each other (as they do with
    contextlib.contextmanager in Python 3.13): the garbage collector would end a search in such a cycle at any time, in
    any thread, and with it the search of the session that has its number by then.
    """

    def __init__(self, token: Token, operation: str) -> None:
        self._token = token
        self._operation = operation
        self._calls = modules.Calls()

    def __enter__(self) -> pkcs11.Session:
        self._calls.__enter__()
        try:
            return self._token.current()
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        try:
            self._token.note(self._operation, error)
        finally:
            self._calls.__exit__()
