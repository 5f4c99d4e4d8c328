"""udev events of devices that may bring a token. Loads no PKCS#11."""

import time

import pyudev

SUBSYSTEMS = ("tpm", "tpmrm", "tee", "usb", "hidraw")
"""A TPM 2.0 (and its resource manager), OP-TEE, USB tokens."""


class Devices:
    """Listens for new devices. `fileno()` is for select(2). Raises OSError or ImportError without udev (container)."""

    def __init__(self) -> None:
        self._monitor = pyudev.Monitor.from_netlink(pyudev.Context())  # type: ignore[no-untyped-call]
        for subsystem in SUBSYSTEMS:
            self._monitor.filter_by(subsystem)
        self._monitor.start()

    def fileno(self) -> int:
        """Return the descriptor of the socket."""
        return int(self._monitor.fileno())

    def appeared(self, seconds: float = 0.0) -> str | None:
        """Wait so many seconds for a new device; return its path, None if there is none."""
        deadline = time.monotonic() + seconds
        while device := self._monitor.poll(max(0.0, deadline - time.monotonic())):
            if device.action == "add":
                return str(device.device_path)
        return None
