"""What a PKCS#11 module reports, in terms of hsm.errors: the operation, the token, the module's words, what to do."""

import re

import pkcs11
from pkcs11 import exceptions as p11

from hsm.errors import ObjectConflictError, PinError, TokenAbsentError, TokenError, UnsupportedError

_ADVICE: dict[tuple[type[pkcs11.PKCS11Error], ...], tuple[type[TokenError], str]] = {
    (p11.PinLocked,): (
        PinError,
        "the PIN is locked: unlock it with the security officer's PIN (a TPM: tpm2_dictionarylockout --clear-lockout)",
    ),
    (p11.UserPinNotInitialized,): (PinError, "the token has no user PIN yet: set one"),
    (p11.PinIncorrect, p11.PinInvalid, p11.PinLenRange, p11.PinExpired, p11.PinTooWeak): (
        PinError,
        "the PIN is not tried again: correct p11.pass before the token locks it",
    ),
    (p11.DeviceRemoved, p11.NoSuchToken, p11.SlotIDInvalid, p11.TokenNotPresent, p11.TokenNotRecognised): (
        TokenAbsentError,
        "the token is missing: check its device and driver",
    ),
    (p11.MultipleObjectsReturned, p11.MultipleTokensReturned): (
        ObjectConflictError,
        "remove the one that does not belong there",
    ),
    (
        *(p11.AttributeTypeInvalid, p11.AttributeValueInvalid, p11.DomainParamsInvalid, p11.FunctionNotSupported),
        *(p11.KeySizeRange, p11.KeyTypeInconsistent, p11.MechanismInvalid, p11.MechanismParamInvalid),
        *(p11.TemplateIncomplete, p11.TemplateInconsistent),
    ): (UnsupportedError, "this token, or the version of its module, cannot do that: use one that can"),
    (p11.TokenWriteProtected, p11.SessionReadOnly): (UnsupportedError, "the token is write-protected: release it"),
    (p11.DeviceMemory, p11.HostMemory): (
        TokenError,
        "it is out of memory: if that persists, remove objects that nothing uses",
    ),
    (p11.SessionCount,): (TokenError, "other programs hold all its sessions: try again when they are done"),
}
"""The first match counts."""
_UNMAPPED_CODES: dict[int, tuple[type[TokenError], str]] = {
    0x1B: (ObjectConflictError, "the token does not let that object go: have the request name another id"),
    0x68: (UnsupportedError, "the key may not be used for that: use another key"),
}
"""CKR_ACTION_PROHIBITED and CKR_KEY_FUNCTION_NOT_PERMITTED, which python-pkcs11 does not know."""
_UNMAPPED = re.compile(r"Unmapped error code (?:0x)?([0-9a-fA-F]+)")
_TRY_AGAIN = "it may pass: try again, and check the token if it does not"


def translated(error: pkcs11.PKCS11Error, operation: str, label: str) -> TokenError:
    """Return the hsm.errors form of `error`, met when `operation` ("log in") was done on the token with that label."""
    words = str(error)
    said = type(error).__name__ + (f" ({words})" if words else "")
    unmapped = _UNMAPPED.search(words)
    other = _UNMAPPED_CODES.get(int(unmapped[1], 16) if unmapped else 0, (TokenError, _TRY_AGAIN))
    kind, advice = next((row for classes, row in _ADVICE.items() if isinstance(error, classes)), other)
    return kind(f"could not {operation} on token {label!r}: its module says {said}; {advice}")
