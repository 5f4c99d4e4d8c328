"""One device of a factory at the places where devices have it, and what stands in for fioconfig and aktualizr-lite.

All of this is written to the root file system, which is this process's own (tests.systemd.__main__).
"""

import contextlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.simulators.factory import running_factory

from .machine import MASKED, Machine

UNITS = Path("/etc/systemd/system")
DEFAULTS = Path("/etc/default/renew-client-cert")
LOGS = Path("/var/log/services")
PACKAGE = "/var/cache/renew-client-cert.deb"
HANDLER = "/usr/share/fioconfig/handlers/renew-client-cert"
PLACES = ("/var/sota", "/usr/lib/sota", "/etc/sota", "/run/secrets")
# As meta-lmp has them, with a program that writes down when it is called, and runs the handler once after a boot.
SERVICES = {
    "fioconfig-extract.service": """\
[Unit]
After=var.mount
ConditionPathExists=/var/sota/config.encrypted
[Service]
Type=oneshot
RemainAfterExit=true
ExecStart=/usr/local/bin/fioconfig extract
[Install]
WantedBy=multi-user.target
""",
    "fioconfig.service": """\
[Unit]
After=network.target
ConditionPathExists=/var/sota/sota.toml
[Service]
RestartSec=1
Restart=always
EnvironmentFile=/etc/default/renew-client-cert
ExecStart=/usr/local/bin/fioconfig daemon
[Install]
WantedBy=multi-user.target
""",
    "aktualizr-lite.service": """\
[Unit]
After=fioconfig-extract.service
[Service]
Restart=always
ExecStart=/usr/local/bin/aktualizr-lite daemon
[Install]
WantedBy=multi-user.target
""",
}
FIOCONFIG = f"""\
#!/bin/sh
echo "$1" >> {LOGS}/fioconfig
[ -e {LOGS}/at-$1 ] || cp -a /var/sota {LOGS}/at-$1
[ "$1" != extract ] || exit 0
request=/var/run/secrets/fio-rotate-certs
if [ -e $request ] && [ ! -e /run/handler-called ]; then
    touch /run/handler-called
    CONFIG_FILE=$request STORAGE_DIR=/var/sota FIOCONFIG_BIN=$0 {HANDLER}
    status=$?
    echo "handler $status" >> {LOGS}/fioconfig
    [ $status != 123 ] || exit 123
fi
exec sleep infinity
"""
AKTUALIZR = f"#!/bin/sh\necho start >> {LOGS}/aktualizr-lite\nexec sleep infinity\n"


@pytest.fixture(scope="session", autouse=True)
def _root():
    """Leave only what belongs to the device to be started at boot."""
    assert os.environ.get("PACKAGE") == PACKAGE, "this rewrites the root file system: run it by `make test-systemd`"
    for folder in UNITS.glob("*.wants"):
        shutil.rmtree(folder)
    for unit in MASKED:
        (UNITS / unit).unlink(missing_ok=True)
        (UNITS / unit).symlink_to("/dev/null")
    for name, text in SERVICES.items():
        (UNITS / name).write_text(text)
    for name, text in (("fioconfig", FIOCONFIG), ("aktualizr-lite", AKTUALIZR)):
        program = Path("/usr/local/bin", name)
        program.write_text(text)
        program.chmod(0o755)
    package = ["renew-client-cert.path", "renew-client-cert-offline.service", "renew-client-cert-if-due.timer"]
    subprocess.run(["systemctl", "--root=/", "enable", *SERVICES], check=True, capture_output=True)
    subprocess.run(["systemctl", "--root=/", "preset", *package], check=True, capture_output=True)
    journal = Path("/etc/systemd/journald.conf.d/volatile.conf")
    journal.parent.mkdir(exist_ok=True)
    journal.write_text("[Journal]\nStorage=volatile\n")
    Path("/etc/machine-id").write_text("0123456789abcdef0123456789abcdef\n")


@pytest.fixture(params=["file", "token"])
def factory(request, tmp_path):
    """Run a factory whose device is this one, with its keys in files, then with a token."""
    with _device(tmp_path, request.param) as running:
        yield running


@pytest.fixture
def files(tmp_path):
    """Run a factory whose device is this one, with its keys in files."""
    with _device(tmp_path, "file") as running:
        yield running


@pytest.fixture
def token(tmp_path):
    """Run a factory whose device is this one, with a token."""
    with _device(tmp_path, "token") as running:
        yield running


@contextlib.contextmanager
def _device(folder, keys):
    """Run a factory, and move its device to where devices have their files."""
    with running_factory(folder / "device", keys) as factory:
        made, factory.device.folder = factory.device.folder, Path("/")
        for place in PLACES:
            shutil.rmtree(place, ignore_errors=True)
            Path(place).parent.mkdir(parents=True, exist_ok=True)
            shutil.move(f"{made}{place}", place)
        sota = factory.device.sota_toml
        sota.write_text(sota.read_text().replace(f"{made}/", "/"))
        shutil.rmtree(LOGS, ignore_errors=True)
        LOGS.mkdir(parents=True)
        environment = factory.device.token.environment if factory.device.token else {}
        DEFAULTS.write_text("".join(f"{name}={value}\n" for name, value in environment.items()))
        try:
            yield factory
        finally:
            for place in PLACES:
                shutil.rmtree(place, ignore_errors=True)
            for drop_in in UNITS.glob("*.service.d"):
                shutil.rmtree(drop_in)


@pytest.fixture
def machine():
    """Give the device's machine, switched off."""
    with Machine() as off:
        yield off
