"""The program's own systemd units: whether they are installed, enabled and active."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

PATH_UNIT, OFFLINE_UNIT, DAEMON_UNIT, TIMER = (
    "renew-client-cert.path",
    "renew-client-cert-offline.service",
    "renew-client-cert.service",
    "renew-client-cert-if-due.timer",
)
TIMEOUT = 10.0
RUNTIME = Path("/run/systemd/system")
"""Exists if systemd runs (sd_booted(3))."""


@dataclass(frozen=True)
class Unit:
    """One unit."""

    installed: bool
    active: bool
    enabled: bool


def show(name: str) -> dict[str, str]:
    """Ask systemd about a unit: LoadState, ActiveState, UnitFileState. Raises OSError."""
    properties = "--property=LoadState,ActiveState,UnitFileState"
    try:
        done = subprocess.run(
            ["systemctl", "show", properties, name],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise OSError(f"systemctl show {name} does not answer within {TIMEOUT:.0f} s") from error
    return dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)


def read_units() -> dict[str, Unit] | None:
    """Return the state of each unit; None if systemd does not run or does not answer."""
    if not RUNTIME.is_dir():
        return None
    found = {}
    try:
        for name in (DAEMON_UNIT, PATH_UNIT, TIMER):
            state = show(name)
            active = state.get("ActiveState") in {"active", "activating", "reloading"}
            enabled = state.get("UnitFileState", "").startswith("enabled")
            found[name] = Unit(state.get("LoadState") == "loaded", active, enabled)
    except OSError:
        return None
    return found
