"""Whether a command that only inspects may try the PIN: a wrong attempt may lock the token."""

from pathlib import Path
from typing import NamedTuple

from handler.device.configuration.configuration import TokenConfig
from hsm.errors import TokenError

_BY_HAND = "log in by hand with the right PIN (pkcs11-tool --login), which restores all attempts"
_ADVICE = {
    "LOW": _BY_HAND,
    "FINAL": _BY_HAND,
    "LOCKED": "unlock it with the security officer's PIN",
    "MISSING": "set a user PIN",
}


class Unsafe(NamedTuple):
    """Why the PIN should not be tried."""

    reason: str
    hopeless: bool = True
    """Whether a rotation would not try it either."""

    def __str__(self) -> str:
        return self.reason


def why_no_login(config: TokenConfig, storage: Path | None) -> Unsafe | None:
    """Say why the PIN should not be tried; None if it may be. Raises TokenError."""
    from handler.device.refused_pin import RefusedPin  # noqa: PLC0415
    from hsm.inventory import PinState, pin_state  # noqa: PLC0415 - only where a token is used

    state, noted = pin_state(config.module, config.label), storage and RefusedPin(storage)
    if not config.pin:
        return Unsafe("p11.pass is not set: expected the token's PIN there")
    if state is PinState.GOOD or state is PinState.LOW:
        try:
            if noted:
                noted.check(config.label, config.pin)
        except TokenError as error:  # it was refused before, or a refusal could not be recorded
            return Unsafe(str(error))
        # The failed attempt may be ours, with the PIN before it was corrected.
        if state is PinState.GOOD or (noted and noted.is_noted(config.label, config.pin) is False):
            return None
    said = f"not trying the PIN, its state is: {state.value}; {_ADVICE[state.name]}"
    return Unsafe(said, hopeless=state is not PinState.LOW)
