"""The checks of the program's environment: user, systemd, the services that use the key, its own units."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from handler.device.hooks.files import NOT_EXECUTABLE, hooks_in
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
        """Check which user runs this."""
        if self.user() == 0:
            yield ok("user", "root, like fioconfig")
        else:
            yield warning("user", f"user {self.user()}, but fioconfig runs as root: what only root may do fails here")

    def unit(self, name: str) -> dict[str, str]:
        """Ask systemd about a unit: LoadState, ActiveState, UnitFileState. Raises OSError."""
        return show(self.systemctl, name)


def system_findings(system: System) -> Iterator[Result]:
    """Check the services that use the key, the program's own units, hooks, and the handler of fioconfig."""
    yield _handler(system.handler)
    yield from _hooks(system.services)
    if not system.services.available:
        yield warning(
            "services", "systemd does not run: after a rotation, restart aktualizr-lite and run `resume` by hand"
        )
        return
    for name in (FIOCONFIG, AKTUALIZR):
        found = system.unit(name)
        if found.get("LoadState") == "loaded":
            yield ok("services", f"{name} is installed ({found.get('ActiveState') or 'state unknown'})")
        else:
            yield warning("services", f"{name} is not installed, so a rotation cannot restart it")
    for name, by_itself in ((DAEMON_UNIT, False), (PATH_UNIT, True), (OFFLINE_UNIT, True)):
        yield _unit(system, name, by_itself=by_itself)


def _unit(system: System, name: str, *, by_itself: bool) -> Result:
    found = system.unit(name)
    if found.get("LoadState") != "loaded":
        state = found.get("LoadState") or "unknown"
        return problem(
            "units",
            f"{name} is not installed ({state}), so nothing resumes a rotation: install renew-client-cert again",
        )
    enabled = found.get("UnitFileState", "")
    if by_itself and enabled not in {"enabled", "enabled-runtime", "static"}:
        return warning("units", f"{name} is {enabled or 'not enabled'}: `systemctl enable --now {name}`")
    if name == PATH_UNIT and found.get("ActiveState") != "active":
        state = found.get("ActiveState") or "unknown"
        return warning("units", f"{name} is {state}, expected active: `systemctl start {name}`")
    return ok("units", f"{name} is installed" + (f" and {enabled}" if by_itself else ""))


def _hooks(services: Services) -> Iterator[Result]:
    for hook in hooks_in(services.hooks):
        if hook.problem is None:
            yield ok("hooks", f"{hook.path} runs after a rotation")
        elif hook.problem == NOT_EXECUTABLE:
            yield warning("hooks", f"{hook.path} {hook.problem}, so it does not run: chmod 755")
        else:
            yield warning("hooks", f"{hook.path} does not run: {hook.problem}; only root may be able to change it")


def _handler(path: Path) -> Result:
    try:
        content = read_regular(path, follow=True)
    except FileNotFoundError:
        return warning("handler", f"{path} does not exist, so fioconfig cannot rotate: install renew-client-cert again")
    if OURS not in content:
        return warning("handler", f"{path} is another program, and fioconfig calls it: install renew-client-cert again")
    if not os.access(path, os.X_OK):
        return problem("handler", f"{path} cannot be executed: chmod 755")
    return ok("handler", f"{path} is this program")
