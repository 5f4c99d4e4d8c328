"""What can go wrong with a token, in words for people."""


class TokenError(Exception):
    """The token failed, which may pass (removed, busy, reset, out of memory)."""

    final = False
    """Whether someone has to change something before the same call can succeed."""
    label: str | None = None
    """The token's, if one was found."""


class TokenAbsentError(TokenError):
    """No token with the configured label is there (yet)."""


class MixedHandlesError(TokenError):
    """The module took one object for another; it is restarted before the next use of the token."""


class FinalTokenError(TokenError):
    """Base of the failures that someone has to fix first."""

    final = True


class ModuleError(FinalTokenError):
    """The PKCS#11 module is missing or cannot be loaded."""


class PinError(FinalTokenError):
    """The PIN is wrong or locked. It is never tried twice: a locked token is a dead device."""


class PinRefusedError(PinError):
    """The token tried the PIN and refused it: it counts such attempts."""


class ObjectMissingError(FinalTokenError):
    """A key or certificate that the configuration names is not in the token."""


class ObjectConflictError(FinalTokenError):
    """An object in the token is not ours to touch, or ambiguous."""


class UnsupportedError(FinalTokenError):
    """The token cannot do what a rotation needs."""


class TlsBindingError(FinalTokenError):
    """This Python or OpenSSL lacks what a key outside of files needs, or refuses the key."""
