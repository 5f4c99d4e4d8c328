"""The checks of what surrounds the program: its user, systemd, the services that use the key, its own units."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from handler.device.services import AKTUALIZR, FIOCONFIG, Services
from handler.device.storage import read_regular
from handler.inspection.units import DAEMON_UNIT, OFFLINE_UNIT, PATH_UNIT, show

from .result import Result, ok, problem, warning

HANDLER = Path("/usr/share/fioconfig/handlers/renew-client-cert")
OURS = b"handler.cli"
"""What every launcher of this program imports; fioconfig's own handler of that name is a shell script."""


@dataclass
class System:
    """The system that the program runs on."""

    services: Services = field(default_factory=Services)
    systemctl: str = "systemctl"
    handler: Path = HANDLER
    user: Callable[[], int] = os.geteuid

    def user_findings(self) -> Iterator[Result]:
        """Look who runs this."""
        if self.user() == 0:
            yield ok("user", "root, as fioconfig")
        else:
            yield warning("user", f"user {self.user()}, not root as fioconfig: what only root may is a problem here")

    def unit(self, name: str) -> dict[str, str]:
        """Ask systemd about a unit: LoadState, ActiveState, UnitFileState. Raises OSError."""
        return show(self.systemctl, name)


def system_findings(system: System) -> Iterator[Result]:
    """Look for the services that use the key, the program's own units, and the handler that fioconfig calls."""
    yield _handler(system.handler)
    if not system.services.available:
        yield warning(
            "services", "systemd does not run here: restart aktualizr-lite yourself, and go on with `resume` yourself"
        )
        return
    for name in (FIOCONFIG, AKTUALIZR):
        found = system.unit(name)
        if found.get("LoadState") == "loaded":
            yield ok("services", f"{name} is there ({found.get('ActiveState') or 'state unknown'})")
        else:
            yield warning("services", f"{name} is not there: expected it on a device, it is not restarted")
    for name, by_itself in ((DAEMON_UNIT, False), (PATH_UNIT, True), (OFFLINE_UNIT, True)):
        yield _unit(system, name, by_itself=by_itself)


def _unit(system: System, name: str, *, by_itself: bool) -> Result:
    found = system.unit(name)
    if found.get("LoadState") != "loaded":
        state = found.get("LoadState") or "unknown"
        return problem(
            "units", f"{name} is not installed ({state}): nobody resumes a rotation; install renew-client-cert again"
        )
    enabled = found.get("UnitFileState", "")
    if by_itself and enabled not in {"enabled", "enabled-runtime", "static"}:
        return warning("units", f"{name} is {enabled or 'not enabled'}: `systemctl enable --now {name}`")
    if name == PATH_UNIT and found.get("ActiveState") != "active":
        state = found.get("ActiveState") or "unknown"
        return warning("units", f"{name} is {state}, expected active: `systemctl start {name}`")
    return ok("units", f"{name} is installed" + (f" and {enabled}" if by_itself else ""))


def _handler(path: Path) -> Result:
    try:
        content = read_regular(path, follow=True)
    except FileNotFoundError:
        return warning("handler", f"{path} is not there: fioconfig rotates nothing; install renew-client-cert again")
    if OURS not in content:
        return warning(
            "handler", f"{path} is another program: fioconfig calls that one; install renew-client-cert again"
        )
    if not os.access(path, os.X_OK):
        return problem("handler", f"{path} cannot be executed: chmod 755")
    return ok("handler", f"{path} is this program")
