"""The checks of the program's environment: user, the handler that fioconfig calls, hooks, services, its own units."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from handler.device.hooks import NOT_EXECUTABLE, hooks_in
from handler.device.services import AKTUALIZR, FIOCONFIG, Services
from handler.device.storage import read_regular
from handler.inspection.units import DAEMON_UNIT, OFFLINE_UNIT, PATH_UNIT, show

from .result import OK, PROBLEM, WARNING, Found

HANDLER = Path("/usr/share/fioconfig/handlers/renew-client-cert")
OURS = b"handler.cli"
"""What every launcher of this program imports; fioconfig's own handler of that name is a shell script."""


class SystemChecks:
    """The checks of the system that the program runs on, a method for each topic. They raise OSError."""

    def __init__(
        self,
        services: Services | None = None,
        handler: Path = HANDLER,
        user: Callable[[], int] = os.geteuid,
    ) -> None:
        self._services = services or Services()
        self._handler = handler
        self.user_id = user

    def user(self) -> Iterator[Found]:
        """Check which user runs this."""
        if self.user_id() == 0:
            yield OK, "root, like fioconfig"
        else:
            yield WARNING, f"user {self.user_id()}, but fioconfig runs as root: what only root may do fails here"

    def handler(self) -> Iterator[Found]:
        """Check what fioconfig calls."""
        try:
            ours = OURS in read_regular(self._handler, follow=True)
        except FileNotFoundError:
            yield (
                WARNING,
                f"{self._handler} does not exist, so fioconfig cannot rotate: install renew-client-cert again",
            )
            return
        if not ours:
            yield (
                WARNING,
                f"{self._handler} is another program, and fioconfig calls it: install renew-client-cert again",
            )
        elif not os.access(self._handler, os.X_OK):
            yield PROBLEM, f"{self._handler} cannot be executed: chmod 755"
        else:
            yield OK, f"{self._handler} is this program"

    def hooks(self) -> Iterator[Found]:
        """Check which hooks would run."""
        for hook in hooks_in(self._services.hooks):
            if hook.problem is None:
                yield OK, f"{hook.path} runs after a rotation"
            elif hook.problem == NOT_EXECUTABLE:
                yield WARNING, f"{hook.path} {hook.problem}, so it does not run: chmod 755"
            else:
                yield WARNING, f"{hook.path} does not run: {hook.problem}; only root may be able to change it"

    def services(self) -> Iterator[Found]:
        """Check the services that use the key."""
        if not self._services.available:
            yield WARNING, "systemd does not run: after a rotation, restart aktualizr-lite and run `resume` by hand"
            return
        for name in (FIOCONFIG, AKTUALIZR):
            found = show(name)
            if found.get("LoadState") == "loaded":
                yield OK, f"{name} is installed ({found.get('ActiveState') or 'state unknown'})"
            else:
                yield WARNING, f"{name} is not installed, so a rotation cannot restart it"

    def units(self) -> Iterator[Found]:
        """Check the program's own units."""
        if self._services.available:
            for name in (DAEMON_UNIT, PATH_UNIT, OFFLINE_UNIT):
                yield _unit(name, show(name))


def _unit(name: str, found: dict[str, str]) -> Found:
    """Judge a unit by its properties. The path unit starts the daemon; the others have to be enabled."""
    loaded, active = found.get("LoadState") or "unknown", found.get("ActiveState") or "unknown"
    if loaded != "loaded":
        return (
            PROBLEM,
            f"{name} is not installed ({loaded}), so nothing resumes a rotation: install renew-client-cert again",
        )
    if name == DAEMON_UNIT:
        return OK, f"{name} is installed"
    enabled = found.get("UnitFileState", "")
    if enabled not in {"enabled", "enabled-runtime", "static"}:
        return WARNING, f"{name} is {enabled or 'not enabled'}: `systemctl enable --now {name}`"
    if name == PATH_UNIT and active != "active":
        return WARNING, f"{name} is {active}, expected active: `systemctl start {name}`"
    return OK, f"{name} is installed and {enabled}"
