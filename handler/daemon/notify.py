"""What the daemon tells systemd (sd_notify(3)): a datagram to the socket that NOTIFY_SOCKET names.

The protocol is this one datagram. The libraries for it either compile against libsystemd or are no longer kept.
"""

import logging
import os
import socket
from collections.abc import Mapping

from handler.errors import harmless

log = logging.getLogger(__name__)


class Notifier:
    """Tells systemd; without it (`environment` names no socket) nobody. Nothing here fails."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        # "@" stands for the abstract namespace.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        mine = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        microseconds = environment.get("WATCHDOG_USEC", "")
        self.watchdog = int(microseconds) / 1e6 if mine and microseconds.isdecimal() else None
        """Seconds within which systemd wants to hear WATCHDOG=1; None where it does not ask."""

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
            log.info("systemd was not told: %s", error)
