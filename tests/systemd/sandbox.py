"""What a program that runs in the place of ours, in a service, can do to the device: a probe tries to get out."""

import json
import re
import shutil
from pathlib import Path

from tests.simulators.device import REPOSITORY

from .conftest import UNITS
from .probe import ATTEMPTS, MARK

SERVICE = "renew-client-cert-if-due.service"  # every service has the same sandbox: test_units.py
GETS_OUT = {
    "change what root's services are configured to run",
    "signal another of root's processes",
    "start a unit of its own through systemd",
}


def probed(machine):
    """Have the probe run as the service; give what came of each attempt."""
    shutil.copy(Path(__file__).with_name("probe.py"), "/var/sota/probe.py")
    drop_in = UNITS / f"{SERVICE}.d"
    drop_in.mkdir()
    command = "/usr/bin/python3 /var/sota/probe.py /var/sota/probed.json"
    (drop_in / "probe.conf").write_text(f"[Service]\nExecStart=\nExecStart={command}\n")
    with machine.running():
        machine.systemctl("start", SERVICE)
        return json.loads(Path("/var/sota/probed.json").read_text())


def test_a_probe_gets_out_of_the_sandbox_only_where_the_documentation_says_so(files, machine):
    results = probed(machine)
    print(*(f"{name}: {why or 'WORKS'}" for name, why in results.items()), sep="\n")
    assert list(results) == list(ATTEMPTS)
    assert {name for name, why in results.items() if why is None} == GETS_OUT
    left = Path(f"/usr/{MARK}")
    assert left.exists()
    left.unlink()
    assert not list(Path("/etc").glob(f"{MARK}*"))


def test_the_documentation_names_every_attempt_and_what_came_of_it():
    text = (REPOSITORY / "docs/security.md").read_text()
    rows = dict(re.findall(r"^\| ([^|]+) \| (contained|\*\*not contained\*\*) \|", text, re.MULTILINE))
    assert rows == {name: "**not contained**" if name in GETS_OUT else "contained" for name in ATTEMPTS}
