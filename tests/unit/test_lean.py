"""Libraries are loaded without what is not used of them, and whoever does use it gets the real thing."""

import subprocess
import sys

import pytest

from tests.simulators.device import REPOSITORY

REQUESTS = """
import handler.http
assert not {"charset_normalizer", "importlib.metadata", "email.headerregistry", "idna.core"} & set(sys.modules)

from handler.lean import requests
answer = requests.Response()
answer._content = "grün".encode()
assert answer.text == "grün"
import charset_normalizer
assert charset_normalizer.detect(b"text")["encoding"]

import importlib.metadata
import urllib3.http2
assert urllib3.http2.version("urllib3") == urllib3.__version__ == importlib.metadata.version("urllib3")

import idna
assert idna.encode("grün.example") == b"xn--grn-ioa.example"
from email.policy import SMTP
assert SMTP.linesep == "\\r\\n"
"""
PKCS11 = """
import hsm.keystore
assert "asn1crypto" not in sys.modules

import pkcs11
assert pkcs11.util.ec.encode_named_curve_parameters("secp256r1").hex() == "06082a8648ce3d030107"
assert "asn1crypto" in sys.modules
"""


@pytest.mark.parametrize("program", [REQUESTS, PKCS11], ids=["requests", "python-pkcs11"])
def test_what_is_not_used_is_loaded_only_when_somebody_asks(program):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "import sys\n" + program],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
