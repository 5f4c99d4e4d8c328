"""Libraries are loaded without what is not used of them, and whoever does use it gets the real thing."""

import subprocess
import sys

import pytest

from tests.simulators.device import REPOSITORY

REQUESTS = """
import handler.servers.http, handler.servers.est
left_out = {"charset_normalizer", "importlib.metadata", "urllib.request", "zipfile", "email.headerregistry"}
assert not {*left_out, "idna.core"} & set(sys.modules)

import requests
answer = requests.Response()
answer._content = "grün".encode()
assert answer.text == "grün"
import charset_normalizer
assert charset_normalizer.detect(b"text")["encoding"]
assert requests.utils.get_environ_proxies("https://example.com", no_proxy="example.com") == {}
assert requests.utils.extract_zipped_paths("/no/such/file") == "/no/such/file"

import importlib.metadata
import urllib3.http2
assert urllib3.http2.version("urllib3") == urllib3.__version__ == importlib.metadata.version("urllib3")

import idna
assert idna.encode("grün.example") == b"xn--grn-ioa.example"
from email.policy import SMTP
assert SMTP.linesep == "\\r\\n"
"""
DATACLASSES = """
import hsm
import dataclasses
import handler.device.configuration.toml_edit
handler.device.configuration.toml_edit.set_values("", {"a": "b"})
assert "tomlkit" in sys.modules and (sys.version_info >= (3, 12) or "inspect" not in sys.modules)

@dataclasses.dataclass
class Point:
    x: int
assert Point.__doc__ == "Point(x: int)"
import inspect
assert inspect.CO_VARARGS == 4
"""
CRYPTOGRAPHY = """
import handler.crypto.certificates
assert "cryptography.hazmat.primitives.serialization.ssh" not in sys.modules

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
public = ec.generate_private_key(ec.SECP256R1()).public_key()
line = public.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
assert serialization.load_ssh_public_key(line) == public
assert serialization.ssh.load_ssh_public_key(line) == public
"""
PKCS11 = """
import hsm.keystore
assert "asn1crypto" not in sys.modules

import pkcs11
assert pkcs11.util.ec.encode_named_curve_parameters("secp256r1").hex() == "06082a8648ce3d030107"
assert "asn1crypto" in sys.modules
"""
NESTED = """
import hsm
from hsm.lean import Lean
from pathlib import Path
from tempfile import TemporaryDirectory
with TemporaryDirectory() as folder:
    Path(folder, "undocumented.py").write_text("import dataclasses\\n@dataclasses.dataclass\\nclass P:\\n    x: int\\n")
    sys.path.insert(0, folder)
    sys.meta_path.insert(0, Lean(without={"undocumented": ["inspect"]}))
    import undocumented
assert undocumented.P.__doc__ == "P(x: int)"
import inspect
assert inspect.CO_VARARGS == 4
"""
PROGRAMS = {
    "one without another": NESTED,
    "requests": REQUESTS,
    "dataclasses": DATACLASSES,
    "cryptography": CRYPTOGRAPHY,
    "python-pkcs11": PKCS11,
}


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_what_is_not_used_is_loaded_only_when_somebody_asks(program):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "import sys\n" + program],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
