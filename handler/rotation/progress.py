"""How a rotation says what it does; the console shows it."""

from typing import Protocol

from handler.device.keystore import IdentityNames
from hsm.certificate import Certificate


class Progress(Protocol):
    """Hears what happens, as it happens."""

    def step_started(self, number: int, name: str) -> None:
        """A step begins."""

    def step_done(self) -> None:
        """It is done."""

    def step_failed(self, reason: str) -> None:
        """It failed, for that reason."""

    def completed(self, rotation_id: str, names: IdentityNames, certificate: Certificate) -> None:
        """The rotation is complete: that identity is in use."""
