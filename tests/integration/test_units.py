"""The systemd units and the udev rule, as far as can be asked without a running systemd. Running: tests/systemd."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from handler.console.arguments import make_parser
from handler.journal.pending import BROKEN, EARLIER, FOLDER, JOURNAL, MARKER
from handler.servers.transport import IN_ALL
from tests.simulators.device import REPOSITORY

UNITS = REPOSITORY / "systemd"
SERVICES = sorted(path.name for path in UNITS.glob("*.service"))
EVERY_UNIT = sorted(path.name for path in UNITS.iterdir() if path.suffix in {".service", ".path", ".timer"})
RULES = "80-renew-client-cert.rules"
PROGRAM = "/usr/sbin/renew-client-cert"
JOURNAL_FOLDER = f"/var/sota/{FOLDER}"
DEVICES = """\
P: /devices/platform/MSFT0101:00/tpmrm/tpmrm0
N: tpmrm0
E: DEVNAME=/dev/tpmrm0
E: SUBSYSTEM=tpmrm

P: /devices/platform/firmware:optee/tee/tee0
N: tee0
E: DEVNAME=/dev/tee0
E: SUBSYSTEM=tee

P: /devices/platform/firmware:optee/tee/teepriv0
N: teepriv0
E: DEVNAME=/dev/teepriv0
E: SUBSYSTEM=tee

P: /devices/pci0000:00/usb1/1-1/1-1:1.0
E: DEVTYPE=usb_interface
E: SUBSYSTEM=usb
A: bInterfaceClass=0b\\n

P: /devices/pci0000:00/usb1/1-2
N: bus/usb/001/003
E: DEVNAME=/dev/bus/usb/001/003
E: DEVTYPE=usb_device
E: SUBSYSTEM=usb
A: idVendor=1050\\n
A: idProduct=0030\\n

P: /devices/pci0000:00/usb1/1-3/1-3:1.0
E: DEVTYPE=usb_interface
E: SUBSYSTEM=usb
A: bInterfaceClass=03\\n
"""


def ran(*command):
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stdout + done.stderr


def settings(unit):
    """Give the values of each key, in order."""
    found = {}
    for line in (UNITS / unit).read_text().splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(key, []).append(value)
    return found


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Make a root file system with these units, the targets of this machine, and a program."""
    folder = tmp_path_factory.mktemp("root")
    place = folder / "usr/lib/systemd/system"
    place.mkdir(parents=True)
    targets = [
        path for kind in ("target", "slice", "mount") for path in Path("/usr/lib/systemd/system").glob(f"*.{kind}")
    ]
    for unit in (*filter(Path.is_file, targets), *(UNITS / name for name in EVERY_UNIT)):
        shutil.copy(unit, place)
    program = folder / PROGRAM.lstrip("/")
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    return folder


@pytest.fixture(scope="module")
def wanted(tmp_path_factory):
    """Give what udev would do when each of the devices appears: its lines, by the last part of the device's path."""
    folder = tmp_path_factory.mktemp("udev")
    (folder / "devices").write_text(DEVICES)
    paths = re.findall(r"^P: (\S+)$", DEVICES, re.MULTILINE)
    script = (
        "mount -t tmpfs none /etc/udev/rules.d && mount -t tmpfs none /run && mkdir /run/udev\n"
        f"cp {UNITS / RULES} /etc/udev/rules.d/\n"
        'for path in "$@"; do echo "device $path"; udevadm test --action=add "/sys$path" 2>&1; done'
    )
    unshared = ("unshare", "--user", "--map-root-user", "--mount")
    status, said = ran(
        *unshared, "umockdev-run", "-d", str(folder / "devices"), "--", "sh", "-ec", script, "sh", *paths
    )
    assert status == 0, said
    by_device = dict(part.split("\n", 1) for part in said.split("device /devices/")[1:])
    return {path.rsplit("/", 1)[1]: text.splitlines() for path, text in by_device.items()}


# What systemd-analyze and udevadm say


def test_systemd_finds_nothing_wrong_with_the_units(root):
    assert ran("systemd-analyze", "verify", "--man=no", f"--root={root}", *EVERY_UNIT) == (0, "")


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_is_exposed_no_more_than_two(service):
    status, said = ran("systemd-analyze", "security", "--offline=yes", "--no-pager", "--threshold=20", UNITS / service)
    assert status == 0, said
    assert re.search(r"Overall exposure level for \S+: (?:[01]\.\d|2\.0) OK", said), said


@pytest.mark.parametrize("device", ["tee0", "tpmrm0", "1-1:1.0", "1-2"])
def test_the_device_of_a_token_wakes_the_service(wanted, device):
    assert "SYSTEMD_WANTS=renew-client-cert.service" in wanted[device]
    assert "TAGS=:systemd:" in wanted[device]


@pytest.mark.parametrize("device", ["teepriv0", "1-3:1.0"])
def test_another_device_wakes_nothing(wanted, device):
    assert not [line for line in wanted[device] if line.startswith(("SYSTEMD_WANTS", "run:"))]


@pytest.mark.parametrize(("device", "restarts"), [("tee0", True), ("tpmrm0", True), ("1-1:1.0", False), ("1-2", False)])
def test_a_driver_that_is_loaded_late_restarts_a_service_that_waits_for_it(wanted, device, restarts):
    ran_then = [line for line in wanted[device] if line.startswith("run:")]
    assert ran_then == ["run: '/bin/systemctl --no-block try-restart renew-client-cert.service'"] * restarts


# Where the units and the program must agree


def test_the_units_look_where_the_program_keeps_its_journal():
    assert settings("renew-client-cert.path")["PathExists"] == [f"{JOURNAL_FOLDER}/{MARKER}"]
    assert settings("renew-client-cert.service")["ConditionPathExists"] == [f"{JOURNAL_FOLDER}/{MARKER}"]
    assert settings("renew-client-cert-offline.service")["ConditionPathExists"] == [
        f"|{JOURNAL_FOLDER}/{each}" for each in (BROKEN, JOURNAL, EARLIER)
    ]


def test_the_device_is_made_whole_before_anything_uses_its_key():
    unit = settings("renew-client-cert-offline.service")
    assert {"fioconfig-extract.service", "fioconfig.service", "aktualizr-lite.service"} <= set(
        unit["Before"][0].split()
    )
    assert unit["RequiresMountsFor"] == ["/var/sota"]
    assert "renew-client-cert-offline.service" in settings("renew-client-cert.service")["After"][0].split()


def test_the_offline_service_may_wait_for_the_token_as_long_as_documented():
    documented = re.findall(r"`HSM_WAIT=(\d+)`", (REPOSITORY / "docs/installation.md").read_text())
    (limit,) = settings("renew-client-cert-offline.service")["TimeoutStartSec"]
    minute_for_the_lock, slow_token = 60, IN_ALL
    assert int(limit) >= max(map(int, documented)) + minute_for_the_lock + slow_token


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_runs_a_command_that_the_program_has(service):
    (command,) = settings(service)["ExecStart"]
    program, *arguments = command.split()
    assert program == PROGRAM
    words = [each for each in arguments if not each.startswith("$")]
    assert make_parser().parse_args(words).command == words[0]


@pytest.mark.parametrize("service", SERVICES)
def test_every_service_has_the_same_sandbox(service):
    """But the offline service may give a file to its owner, because it has no network."""
    first, other = (settings(name) for name in (SERVICES[0], service))
    unit = {"Description", "ExecStart", "ConditionPathExists", "Type", "Wants", "After", "Before", "WantedBy"}
    running = {"Restart", "RestartSec", "StartLimitIntervalSec", "WatchdogSec", "TimeoutStopSec", "TimeoutStartSec"}
    running |= {"KillMode", "SuccessExitStatus", "RestrictAddressFamilies", "IPAddressDeny"}
    for each in (first, other):
        for key in unit | running:
            each.pop(key, None)
    if service == "renew-client-cert-offline.service":
        first["CapabilityBoundingSet"] = ["CAP_DAC_OVERRIDE CAP_CHOWN CAP_FOWNER"]
        first["SystemCallFilter"] = [*first["SystemCallFilter"], "@chown"]
    assert first == other


def test_only_what_finishes_a_rotation_is_enabled():
    lines = (UNITS / "80-renew-client-cert.preset").read_text().splitlines()
    assert lines == [
        "enable renew-client-cert.path",
        "enable renew-client-cert-offline.service",
        "disable renew-client-cert-if-due.timer",
    ]
    installable = {unit for unit in EVERY_UNIT if "WantedBy" in settings(unit)}
    assert {line.split()[1] for line in lines} == installable
