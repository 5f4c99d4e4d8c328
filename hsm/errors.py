"""What can go wrong with a token, in the words of the person who reads it.

`final` tells whether the same call may succeed later without anybody changing anything.
"""


class TokenError(Exception):
    """The token failed; it may pass (removed, busy, reset, out of memory)."""

    final = False
    label: str | None = None
    """The token's, where it was one."""


class TokenAbsentError(TokenError):
    """No token with the configured label is there (yet)."""


class MixedHandlesError(TokenError):
    """The module took one object for another; it is started anew before the next use of the token."""


class FinalTokenError(TokenError):
    """Base of the failures that somebody has to mend first."""

    final = True


class ModuleError(FinalTokenError):
    """The PKCS#11 module is missing or cannot be loaded."""


class PinError(FinalTokenError):
    """The PIN is wrong or locked. Never tried twice: a locked token is a dead device."""


class PinRefusedError(PinError):
    """The token was asked, and says that the PIN is wrong: it counts such attempts."""


class ObjectMissingError(FinalTokenError):
    """A key or certificate that the configuration names is not in the token."""


class ObjectConflictError(FinalTokenError):
    """What is in the token is not ours to touch, or is ambiguous."""


class UnsupportedError(FinalTokenError):
    """The token cannot do what a rotation needs."""
