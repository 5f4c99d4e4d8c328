"""A token: found by its label, logged in to once, used by one thread at a time.

    token = Token(module, label, pin)
    with token.session("read the certificate") as session:
        ...                                  # python-pkcs11 calls, under the process's one lock

What pkcs11 raises inside becomes an hsm.errors.TokenError that names the operation, and the session is not used again:
after a failed C_Sign, for instance, it stays in OperationActive. The next use opens a fresh one; where that fails as
well, or the login is gone, the module is started anew first, which is the only cure for a token that was away.
"""

import contextlib
import logging
import time
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
"""Seconds that an operation with a key takes, from which on a token is slow."""

_log = logging.getLogger(__name__)

# Uses that failed in a row, after which a fresh session is not enough.
_TOO_MANY = 2


class PinMemory(Protocol):
    """Remembers a refused PIN for longer than a process: a TPM locks its token after two attempts at a wrong one."""

    def check(self, label: str, pin: str) -> None:
        """Raise PinError where the token of that label has refused that PIN before."""

    def refused(self, label: str, pin: str) -> None:
        """Note that it has refused that PIN."""

    def accepted(self) -> None:
        """Forget what was noted: the PIN that is configured now is right."""


class Token:
    """The token of that label in a PKCS#11 module (a path, or a name for the loader), with the user's PIN.

    `memory` is asked before the PIN is tried, and told how that went.
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
        self._era = 0
        self._used_at = 0.0
        self.is_slow = False
        """Whether an operation with a key has taken long."""
        self.seen: list[Found] | None = None
        """What is in it, as far as that was looked at in this era (hsm.objects)."""
        self.missing: set[str] = set()
        """What was missing even in a module started anew."""
        self.keys: dict[ObjectId, TokenPrivateKey] = {}
        """The keys that were loaded, with what they have shown."""

    def __repr__(self) -> str:
        return f"Token({self.module!r}, {self.label!r})"

    @property
    def era(self) -> int:
        """A number that changes when object handles found earlier may no longer mean what they did."""
        return self._era

    def open(self) -> None:
        """Load the module, find the token and log in, so that what is wrong with them is said now.

        Raises ModuleError, TokenAbsentError, PinError, ObjectConflictError (two tokens of that label), TokenError.
        """
        with self.session("open a session"):
            pass

    def session(self, operation: str = "use a session") -> contextlib.AbstractContextManager[pkcs11.Session]:
        """Hold the lock and give the open read/write session, for one operation, named as in "could not …".

        Raises TokenError and its subclasses for whatever the module raises. Can be nested.
        """
        return _Use(self, operation)

    def objects_changed(self) -> None:
        """Note that somebody may have made or destroyed objects: what was seen is not believed any more."""
        with modules.LOCK:
            self.changed(None)

    def changed(self, seen: "list[Found] | None") -> None:
        """Note what is there by now: OP-TEE gives a destroyed object's handle to the next one."""
        self.seen = seen
        if seen is not None:
            self.missing.clear()
        self._era += 1

    def took(self, what: str, since: float) -> None:
        """Note how long an operation with a key took that began at that time (time.monotonic)."""
        seconds = time.monotonic() - since
        if seconds > SLOW and not self.is_slow:
            self.is_slow = True
            _log.warning("Token %r took %.0f s to %s: waiting for it each time.", self.label, seconds, what)

    def reinitialize(self) -> None:
        """Start the module anew (frees what tpm2-pkcs11 leaks with every generated key). Raises TokenError."""
        with modules.LOCK:
            module = modules.load(self.module)
            try:
                module.reinitialize()
            except p11.PKCS11Error as error:
                raise translated(error, "start the module again", self.label) from error

    def close(self) -> None:
        """Close the session and give back the login. A later use opens both again."""
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
        """Give the open session, or open one. Wants the lock held; raises what pkcs11 raises. For session()."""
        module = modules.load(self.module)
        try:
            if self._failures >= _TOO_MANY:
                module.reinitialize()
            return self._attached(module)
        except p11.PKCS11Error:
            # Not a PIN at risk: log_in() raises other errors, and one that was accepted is right.
            module.reinitialize()
            return self._attached(module)

    def _attached(self, module: modules.Module) -> pkcs11.Session:
        if self._found is not None and module.generation == self._generation:
            if self._session is not None:
                if time.monotonic() - self._used_at > modules.FRESH:
                    self.objects_changed()
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
            self._found = found
            self._generation = module.generation
        self.objects_changed()
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
        """Draw the conclusions from the end of an operation. Raises the TokenError for an error of pkcs11."""
        self._used_at = time.monotonic()
        if error is None:
            self._failures = 0
        elif isinstance(error, p11.PKCS11Error):
            self._drop()
            raise self._counted(translated(error, operation, self.label)) from error
        elif isinstance(error, TokenError):
            error.label = self.label
            if isinstance(error, MixedHandlesError):
                self._drop()
                self._failures = _TOO_MANY
        else:
            # An interrupted call may have left a search or signature half done.
            self._drop()

    def _counted(self, failure: TokenError) -> TokenError:
        self._failures += not failure.final
        failure.label = self.label
        return failure

    def _drop(self) -> None:
        session, self._session = self._session, None
        # A session of an earlier generation may share its number with somebody's new one.
        if session is not None and modules.load(self.module).generation == self._generation:
            with contextlib.suppress(p11.PKCS11Error):
                session.close()


class _Use:
    """One use of a token's session.

    A class, and errors kept out of variables, so that no frame and error refer to each other (they would with
    contextlib.contextmanager in Python 3.13): a search that hangs in such a cycle is ended by the garbage collector, at
    any time, in any thread, and takes with it the search of a session that has got its number by then.
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
