"""The services that use the key, through systemctl. Nothing here is fatal: a failure is a warning."""

import logging
import subprocess
from collections.abc import Sequence
from pathlib import Path

from .hooks import FOLDERS

log = logging.getLogger(__name__)

FIOCONFIG = "fioconfig.service"
FIOCONFIG_PATH = "fioconfig.path"
"""meta-lmp's: while it is active, fioconfig is started again as soon as it is stopped."""
AKTUALIZR = "aktualizr-lite.service"
TIMEOUT = 60.0


class Services:
    """systemd on this device. `runtime` is the folder whose presence says that it runs (sd_booted(3)).

    `hooks`: the folders of executables for others who use the certificate.
    """

    def __init__(
        self,
        runtime: Path = Path("/run/systemd/system"),
        systemctl: str = "systemctl",
        timeout: float = TIMEOUT,
        cgroup: Path = Path("/proc/self/cgroup"),
        hooks: Sequence[Path] = FOLDERS,
    ) -> None:
        self.hooks = hooks
        self.available = runtime.is_dir()
        """Whether systemd runs here."""
        self._cgroup = cgroup
        self._systemctl = systemctl
        self._timeout = timeout

    def is_active(self, unit: str) -> bool:
        """Whether the unit runs, or is about to be started again."""
        state = self._call("show", "--property=ActiveState", "--value", unit) if self.available else None
        return state in {"active", "activating", "reloading"}

    def contains_us(self, unit: str) -> bool:
        """Whether this process belongs to the unit, and ends with it (cgroups(7))."""
        try:
            return f"/{unit}" in self._cgroup.read_text("ascii", "replace")
        except OSError:
            return False

    def is_enabled(self, unit: str) -> bool:
        """Whether the unit is started at boot."""
        return self.available and self._call("show", "--property=UnitFileState", "--value", unit) == "enabled"

    def stop(self, unit: str) -> bool:
        """Stop the unit; tell whether that worked."""
        return self._call("stop", unit) is not None

    def start(self, unit: str, *, wait: bool = True) -> bool:
        """Start the unit, even one that failed too often; tell whether that worked, or with `wait=False` was queued."""
        self._call("reset-failed", unit)
        return self._call("start", *([] if wait else ["--no-block"]), unit) is not None

    def restart_aktualizr(self) -> None:
        """Restart aktualizr-lite if it runs.

        Its unit reboots the device at the fourth start within nine minutes: reset-failed clears that count first.
        """
        if not self.available:
            log.warning("systemd does not run: restart aktualizr-lite if it has loaded another key")
            return
        if self.is_active(AKTUALIZR):
            self._call("reset-failed", AKTUALIZR)
            self._call("try-restart", AKTUALIZR)

    def _call(self, *arguments: str) -> str | None:
        try:
            done = subprocess.run(
                [self._systemctl, *arguments],
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=self._timeout,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            log.warning("systemctl %s: %s", " ".join(arguments), error)
            return None
        if done.returncode:
            log.warning("systemctl %s: %s", " ".join(arguments), " ".join(done.stderr.split()) or done.returncode)
            return None
        return done.stdout.strip()
