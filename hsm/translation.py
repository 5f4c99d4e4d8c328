"""What a PKCS#11 module says, in the words of hsm.errors: the operation, the token, the module's words, what to do."""

import re

import pkcs11
from pkcs11 import exceptions as p11

from hsm.errors import (
    ObjectConflictError,
    PinError,
    TokenAbsentError,
    TokenError,
    UnsupportedError,
)

_PIN = (
    p11.PinIncorrect,
    p11.PinInvalid,
    p11.PinLenRange,
    p11.PinExpired,
    p11.PinLocked,
    p11.PinTooWeak,
    p11.UserPinNotInitialized,
)
_ABSENT = (
    p11.DeviceRemoved,
    p11.NoSuchToken,
    p11.SlotIDInvalid,
    p11.TokenNotPresent,
    p11.TokenNotRecognised,
)
_UNSUPPORTED = (
    p11.AttributeTypeInvalid,
    p11.AttributeValueInvalid,
    p11.DomainParamsInvalid,
    p11.FunctionNotSupported,
    p11.KeySizeRange,
    p11.KeyTypeInconsistent,
    p11.MechanismInvalid,
    p11.MechanismParamInvalid,
    p11.TemplateIncomplete,
    p11.TemplateInconsistent,
)
_UNMAPPED_CODES: dict[int, tuple[type[TokenError], str]] = {
    0x1B: (ObjectConflictError, "the token does not let that object go: have the request name another id"),
    0x68: (UnsupportedError, "the key was made without leave to do that"),
}
"""CKR_ACTION_PROHIBITED and CKR_KEY_FUNCTION_NOT_PERMITTED, which python-pkcs11 does not know."""
_UNMAPPED = re.compile(r"Unmapped error code (?:0x)?([0-9a-fA-F]+)")

_ADVICE: tuple[tuple[tuple[type[pkcs11.PKCS11Error], ...], type[TokenError], str], ...] = (
    (
        (p11.PinLocked,),
        PinError,
        "the PIN is locked: unlock it with the security officer's PIN (a TPM: tpm2_dictionarylockout --clear-lockout)",
    ),
    ((p11.UserPinNotInitialized,), PinError, "the token has no user PIN yet: set one"),
    (_PIN, PinError, "the PIN is not tried again: correct p11.pass before the token locks it"),
    (_ABSENT, TokenAbsentError, "the token is not there (any more): look at its device and driver"),
    (
        (p11.MultipleObjectsReturned, p11.MultipleTokensReturned),
        ObjectConflictError,
        "remove the one that does not belong there",
    ),
    (_UNSUPPORTED, UnsupportedError, "this token, or the version of its module, cannot do that: use one that can"),
    ((p11.TokenWriteProtected, p11.SessionReadOnly), UnsupportedError, "the token is write-protected: release it"),
    (
        (p11.DeviceMemory, p11.HostMemory),
        TokenError,
        "it is out of memory: if that stays so, remove objects that nothing uses",
    ),
    ((p11.SessionCount,), TokenError, "other programs hold all its sessions: try again when they are done"),
)
_TRY_AGAIN = "it may pass: try again, and look at the token if it does not"


def translated(error: pkcs11.PKCS11Error, operation: str, label: str) -> TokenError:
    """Say in hsm.errors' terms that `operation` (what was done, for a person) failed on the token with that label."""
    words = str(error)
    said = type(error).__name__ + (f" ({words})" if words else "")
    kind, advice = _kind(error)
    return kind(f"could not {operation} on token {label!r}: its module says {said}; {advice}")


def _kind(error: pkcs11.PKCS11Error) -> tuple[type[TokenError], str]:
    for classes, kind, advice in _ADVICE:
        if isinstance(error, classes):
            return kind, advice
    unmapped = _UNMAPPED.search(str(error))
    return _UNMAPPED_CODES.get(int(unmapped[1], 16) if unmapped else 0, (TokenError, _TRY_AGAIN))
