"""Notify systemd (sd_notify(3)): one datagram to the socket that NOTIFY_SOCKET names.

The libraries for this either compile against libsystemd or are no longer maintained.
"""

import logging
import math
import os
import socket
from collections.abc import Mapping

from handler.errors import harmless

log = logging.getLogger(__name__)


class Notifier:
    """Notifies systemd; does nothing if `environment` names no socket. Never fails."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        # "@" means the abstract namespace.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        mine = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        microseconds = environment.get("WATCHDOG_USEC", "")
        self.watchdog = int(microseconds) / 1e6 if mine and microseconds.isdecimal() else math.inf
        """Seconds within which systemd expects WATCHDOG=1; infinite without a watchdog."""

    def tell(self, **variables: str | int) -> None:
        """Send variables, such as READY=1, STATUS="..."."""
        if not self._address:
            return
        text = "\n".join(harmless(f"{name}={value}") for name, value in variables.items())
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as link:
                link.connect(self._address)
                link.sendall(text.encode())
        except OSError as error:
            log.info("cannot notify systemd: %s", error)
