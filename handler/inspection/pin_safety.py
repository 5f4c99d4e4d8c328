"""Whether a command that only inspects may try the PIN: a wrong attempt may lock the token."""

from dataclasses import dataclass
from pathlib import Path

from handler.device.configuration.configuration import TokenConfig
from hsm.errors import TokenError

_PIN_ADVICE = {
    "LOW": "log in by hand with the right PIN (pkcs11-tool --login), which restores all attempts",
    "FINAL": "log in by hand with the right PIN (pkcs11-tool --login), which restores all attempts",
    "LOCKED": "unlock it with the security officer's PIN",
    "MISSING": "set a user PIN",
}


@dataclass(frozen=True)
class Unsafe:
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

    state = pin_state(config.module, config.label)
    if not config.pin:
        return Unsafe("p11.pass is not set: expected the token's PIN there")
    if state not in (PinState.GOOD, PinState.LOW):
        return Unsafe(f"not trying the PIN, its state is: {state.value}; {_PIN_ADVICE[state.name]}")
    if storage is not None:
        try:
            RefusedPin(storage).check(config.label, config.pin)
        except TokenError as error:  # it was refused before, or a refusal could not be recorded
            return Unsafe(str(error))
    # The failed attempt may be ours, with the PIN before it was corrected.
    if state is PinState.LOW and not (storage and RefusedPin(storage).was_another(config.label, config.pin)):
        said = f"not trying the PIN, its state is: {state.value}; {_PIN_ADVICE[state.name]}"
        return Unsafe(said, hopeless=False)
    return None
