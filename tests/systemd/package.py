"""How the package and `make install` come, are replaced and go, on a device that runs and on one that is off."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from handler.journal.pending import read_pending
from tests.simulators.device import REPOSITORY

from .cases import DAEMON, ENROL, HANDLER, ID, OFFLINE, PACKAGE, PATH, UNITS, handle

TIMER = "renew-client-cert-if-due.timer"
DPKG = ("dpkg", "--force-depends")
STOCK = "#!/bin/sh\nexit 7\n"
PROGRAM = "/usr/sbin/renew-client-cert"
OTHER = "Package: other\nVersion: 1\nArchitecture: all\nMaintainer: a <a@b.example>\nDescription: other\n"


def dpkg(*arguments, check=True):
    """Run dpkg while the device is off, as an image is built; give what it says."""
    done = subprocess.run([*DPKG, *arguments], capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def by_make(script, machine=None):
    """Run what `make install` and `make uninstall` run, without the libraries: there is no network.

    Beside the machine that runs, if one does: its systemd talks to its own processes only, but has no /tmp of ours.
    """
    environment = {"PATH": os.environ["PATH"], "PREFIX": "/usr", "BUILD_PYTHON": sys.executable}
    # systemctl sees that the root folder is not that of process 1.
    environment |= {"PIP_OPTIONS": "--no-deps", "SYSTEMD_IGNORE_CHROOT": "1"}
    inside = ["nsenter", "--target", str(machine._pid), "--pid", "--cgroup"] if machine else []
    command = [*inside, REPOSITORY / "packaging" / script]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=110)
    assert done.returncode == 0, done.stdout + done.stderr


def links():
    return sorted(path.name for path in UNITS.glob("*.wants/renew-client-cert*"))


@pytest.fixture
def stock():
    """Give fioconfig's own handler, on a device on which nothing is installed; install the package again at the end."""
    dpkg("--purge", "renew-client-cert")
    assert links() == []
    handler = Path(HANDLER)
    handler.parent.mkdir(parents=True, exist_ok=True)
    handler.write_text(STOCK)
    handler.chmod(0o755)
    yield handler
    dpkg("--purge", "renew-client-cert", "other", check=False)
    by_make("uninstall.sh")
    handler.unlink(missing_ok=True)
    dpkg("--install", PACKAGE)
    assert links() == [OFFLINE, PATH]


@pytest.fixture
def other(tmp_path):
    """Give a package over a file of which ours cannot be unpacked."""
    for name, text in (("DEBIAN/control", OTHER), (PROGRAM.lstrip("/"), "other")):
        path = tmp_path / "other" / name
        path.parent.mkdir(parents=True)
        path.parent.chmod(0o755)
        path.write_text(text)
    package = tmp_path / "other.deb"
    subprocess.run(["dpkg-deb", "--build", tmp_path / "other", package], check=True, capture_output=True)
    return package


def test_an_upgrade_leaves_the_operator_s_choice_and_a_waiting_daemon_goes_on_as_the_new_version(files, machine):
    files.est.faults.add(*ENROL, status=503, headers={"Retry-After": "3000"})
    assert handle(files) == 75
    with machine.running():
        machine.until(lambda: machine.show(DAEMON, "ActiveState") == "active")
        before = machine.show(DAEMON, "MainPID")
        machine.systemctl("enable", "--now", TIMER)
        machine.systemctl("disable", OFFLINE)
        chosen = {PATH: "enabled", OFFLINE: "disabled", TIMER: "enabled"}
        machine.run(*DPKG, "--install", PACKAGE)
        assert {unit: machine.show(unit, "UnitFileState") for unit in chosen} == chosen
        assert machine.show(TIMER, "ActiveState") == "active"
        machine.until(lambda: machine.show(DAEMON, "MainPID") not in {before, "0"})
        machine.until(lambda: machine.show(DAEMON, "ActiveState") == "active")
        machine.run(*DPKG, "--remove", "renew-client-cert")
        machine.run(*DPKG, "--install", PACKAGE)
        assert {unit: machine.show(unit, "UnitFileState") for unit in chosen} == chosen
        assert machine.show(TIMER, "ActiveState") == machine.show(PATH, "ActiveState") == "active"
        machine.systemctl("disable", "--now", PATH)
        machine.run(*DPKG, "--install", PACKAGE)
        assert machine.show(PATH, "ActiveState") == "inactive"
        machine.run(*DPKG, "--purge", "renew-client-cert")
        assert links() == []
    dpkg("--install", PACKAGE)
    assert links() == [OFFLINE, PATH]
    assert read_pending(files.device.storage).rotation_id == ID


def test_an_installation_that_fails_leaves_fioconfig_its_handler(stock, other):
    dpkg("--install", str(other))
    assert "trying to overwrite" in dpkg("--install", PACKAGE, check=False)
    assert stock.read_text() == STOCK
    assert not Path(f"{HANDLER}.fioconfig").exists()
    dpkg("--purge", "other")
    dpkg("--install", PACKAGE)
    assert Path(f"{HANDLER}.fioconfig").read_text() == STOCK
    dpkg("--remove", "renew-client-cert")
    assert stock.read_text() == STOCK
    dpkg("--install", str(other))
    assert "trying to overwrite" in dpkg("--install", PACKAGE, check=False)
    assert stock.read_text() == STOCK


@pytest.mark.parametrize("kept", [True, False])
def test_what_make_installed_gives_way_to_the_package(stock, kept):
    if not kept:
        stock.unlink()
    by_make("install.sh")
    left_over = Path("/usr/lib/renew-client-cert/handler/gone.py")
    left_over.touch()
    dpkg("--install", PACKAGE)
    assert Path(f"{HANDLER}.fioconfig").exists() == kept
    assert not left_over.exists()
    version = subprocess.run([HANDLER, "--version"], capture_output=True, text=True, check=True).stdout
    assert version.startswith("renew-client-cert ")
    dpkg("--install", PACKAGE)
    dpkg("--remove", "renew-client-cert")
    assert (stock.exists() and stock.read_text()) == (kept and STOCK)


def test_make_install_on_a_running_device_enables_and_starts_what_the_package_would(files, machine, stock):
    with machine.running():
        by_make("install.sh", machine)
        states = {PATH: "enabled", OFFLINE: "enabled", TIMER: "disabled"}
        assert {unit: machine.show(unit, "UnitFileState") for unit in states} == states
        assert machine.show(PATH, "ActiveState") == "active"
        machine.systemctl("enable", "--now", TIMER)
        machine.systemctl("disable", "--now", PATH)
        by_make("install.sh", machine)
        assert (machine.show(TIMER, "UnitFileState"), machine.show(PATH, "UnitFileState")) == ("enabled", "disabled")
        assert (machine.show(TIMER, "ActiveState"), machine.show(PATH, "ActiveState")) == ("active", "inactive")
        by_make("uninstall.sh", machine)
        assert machine.show(TIMER, "LoadState") == machine.show(PATH, "LoadState") == "not-found"
        assert machine.state() == "running"
    assert links() == []
    assert stock.read_text() == STOCK


def test_fioconfig_that_a_killed_rotation_had_stopped_runs_again_when_the_package_is_removed(files, machine):
    fault = files.gateway.faults.add("PATCH", "/config", hang=60.0)
    with machine.running():
        machine.systemctl("stop", PATH)
        files.device.write_request(ID)
        machine.run("systemd-run", "--collect", "--unit=by-hand", PROGRAM, "rotate")
        machine.until(lambda: fault.used)
        machine.systemctl("kill", "--signal=KILL", "by-hand.service")
        machine.until(lambda: machine.show("by-hand.service", "LoadState") == "not-found")
        assert machine.show("fioconfig.service", "ActiveState") == "inactive"
        machine.run(*DPKG, "--remove", "renew-client-cert")
        assert machine.show("fioconfig.service", "ActiveState") == "active"
        assert machine.state() == "running"
    dpkg("--install", PACKAGE)
    assert links() == [OFFLINE, PATH]
