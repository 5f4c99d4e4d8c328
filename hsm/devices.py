"""The kernel's word that a device appeared which may bring a token (udev). Loads no PKCS#11."""

import contextlib
import time

import pyudev

SUBSYSTEMS = ("tpm", "tpmrm", "tee", "usb", "hidraw")
"""What a token's device is to the kernel: TPM 2.0 (and its resource manager), OP-TEE, USB tokens."""


class Devices:
    """Hears of devices that appear, from its making on. `fileno()` is for select(2).

    Raises OSError, also as ImportError, where udev cannot be listened to (a container).
    """

    def __init__(self) -> None:
        try:
            self._monitor = pyudev.Monitor.from_netlink(pyudev.Context())  # type: ignore[no-untyped-call]
        except ImportError as error:  # there is no libudev
            raise OSError(str(error)) from error
        for subsystem in SUBSYSTEMS:
            self._monitor.filter_by(subsystem)
        self._monitor.start()

    def fileno(self) -> int:
        """Give the socket's descriptor."""
        return int(self._monitor.fileno())

    def appeared(self, seconds: float = 0.0) -> str | None:
        """Wait so many seconds for a device that is added; give its path, None where none is."""
        deadline = time.monotonic() + seconds
        while True:
            remaining = max(0.0, deadline - time.monotonic())
            with contextlib.suppress(InterruptedError):
                device = self._monitor.poll(remaining)
                if device is not None and device.action == "add":
                    return str(device.device_path)
                if device is None and not remaining:
                    return None
