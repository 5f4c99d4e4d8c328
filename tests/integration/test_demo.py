"""`make demo`: what it needs, and that a first reader on a narrow terminal sees nothing that looks like a failure."""

import os
import re
import shutil
import subprocess
import sys

import pytest

from tests.demo import WIDTH
from tests.privileges import NOBODY, reachable_folder
from tests.simulators.device import REPOSITORY

FAILURES = re.compile(r"warning|error|fail|not as expected|traceback|does not|cannot", re.IGNORECASE)


def make(*arguments, folder=REPOSITORY, **options):
    """Run make with this checkout's Makefile."""
    without = {name: value for name, value in os.environ.items() if name not in {"MAKEFLAGS", "MAKELEVEL", "MFLAGS"}}
    command = ["make", *arguments]
    return subprocess.run(command, cwd=folder, env=without, capture_output=True, text=True, check=False, **options)


@pytest.mark.parametrize("keys", ["token", "file"])
def test_the_demo_fits_a_narrow_terminal_and_shows_no_failure(keys, tmp_path):
    # Without Debian's packages: keys in files need no program at all.
    path = os.environ["PATH"] if keys == "token" else str(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "tests.demo", "--keys", keys],
        cwd=REPOSITORY,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert [line for line in lines if len(line) > WIDTH] == []
    assert [line for line in lines if FAILURES.search(line)] == []
    assert "all as expected" in done.stdout


def test_each_target_asks_for_the_packages_that_it_needs():
    assert "apt-get" not in make("-n", "demo", "KEYS=file").stdout
    assert re.findall(r"for each in (.*?); do", make("-n", "demo").stdout) == ["softhsm2:/usr/bin/softhsm2-util"]
    assert " strace:" in make("-n", "test").stdout


def test_a_missing_package_is_one_line_with_the_command_that_installs_it():
    user = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
    with reachable_folder() as folder:
        shutil.copy(REPOSITORY / "Makefile", folder)
        done = make("--silent", "token", "TOKEN=softhsm9:/none opensc9:/none", folder=folder, **user)
    first, *rest = done.stderr.splitlines()
    packages = "softhsm9 opensc9"
    assert first == f"missing: {packages}; install with: sudo apt-get install --no-install-recommends {packages}"
    assert len(rest) == 1
    assert rest[0].startswith("make: ***")
