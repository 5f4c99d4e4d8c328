"""requests without its guesser of character sets."""

import subprocess
import sys

from tests.simulators.device import REPOSITORY

PROGRAM = """
import sys
import handler.http
assert "charset_normalizer" not in sys.modules
from handler.lean import requests
answer = requests.Response()
answer._content = "grün".encode()
assert answer.text == "grün"
assert "charset_normalizer" in sys.modules
import charset_normalizer
assert charset_normalizer.detect(b"text")["encoding"]
"""


def test_the_guesser_is_loaded_only_when_somebody_asks():
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
