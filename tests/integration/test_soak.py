"""A sample of what `make soak` does as a whole: five rotations with a token, after which nothing may have grown."""

import subprocess
import sys

import pytest

from tests.simulators.device import REPOSITORY


@pytest.mark.timeout(300)
def test_nothing_grows_in_five_rotations():
    command = [sys.executable, "-m", "tests.soak", "--keys", "softhsm", "--rotations", "5"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    last = done.stdout.splitlines()[-1]
    assert last.startswith("softhsm: 5 rotations in ")
    assert ", 0 broken, nothing grew: token objects 6 -> 6 (2 CERTIFICATE, 2 PRIVATE_KEY, 2 PUBLIC_KEY), " in last
