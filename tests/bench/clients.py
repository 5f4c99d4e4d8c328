"""The programs that are measured: this one, and the stock client where its binary is named."""

import os
import shutil
import sys
from dataclasses import dataclass

from handler.exit_status import SWITCHED
from tests.simulators.device import Device

VARIABLE = "STOCK_FIOCONFIG"


@dataclass(frozen=True)
class Client:
    """A program that rotates. `status` is its exit status when it has."""

    name: str
    status: int
    stock: str | None = None
    options: tuple[str, ...] = ()

    def command(self, device: Device, rotation_id: str) -> list[str]:
        """Give the command line that fioconfig, or the stock shell handler, uses."""
        if self.stock is None:
            return [sys.executable, *self.options, "-m", "handler"]
        ids = ["--pkcs11-key-ids=01,07", "--pkcs11-cert-ids=03,09"]
        return [self.stock, "renew-cert", *ids, device.est_url, rotation_id]


OURS = Client("renew-client-cert", SWITCHED)


def clients() -> list[Client]:
    """Give the programs to measure. Exits if a binary is named that is not there."""
    named = os.environ.get(VARIABLE)
    if not named:
        return [OURS]
    stock = shutil.which(named)
    if stock is None:
        sys.exit(f"{VARIABLE} is {named!r}, which is no program")
    return [OURS, Client("stock", 0, stock)]
