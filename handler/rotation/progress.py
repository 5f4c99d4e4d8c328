"""How a rotation reports its progress; the console shows it."""

from typing import Protocol

from handler.device.keystore import IdentityNames
from hsm.certificate import Certificate


class Progress(Protocol):
    """Receives the progress as it happens."""

    def step_started(self, number: int, name: str) -> None:
        """A step starts."""

    def step_done(self) -> None:
        """The step is done."""

    def step_failed(self, reason: str) -> None:
        """The step failed."""

    def completed(self, rotation_id: str, names: IdentityNames, certificate: Certificate) -> None:
        """The rotation is complete; `names` is the identity in use."""
