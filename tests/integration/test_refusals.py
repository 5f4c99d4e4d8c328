"""What is refused before anything changes, by the program as a process: status 78, and everything as it was."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from handler.exit_status import PROBLEMS, REFUSED, SWITCHED
from tests import softhsm
from tests.privileges import NOBODY, reachable_folder
from tests.simulators.device import REPOSITORY
from tests.simulators.factory import running_factory
from tests.simulators.pki import key_pem

FOUR_LINES = ("ESTSERVER={est}", "PKEYIDS=01,07", "CERTIDS=03,09", "ROTATIONID=certs-1")
# What is wrong -> the lines, and what the message says beside the file: the line, the value, what is expected.
REQUESTS = {
    "another server": (["ESTSERVER=https://a.example", *FOUR_LINES], ["line 2", "ESTSERVER", "a.example"]),
    "another id": ([*FOUR_LINES, "ROTATIONID=certs-2"], ["line 5", "ROTATIONID", "certs-1", "certs-2"]),
    "no equals sign": ([*FOUR_LINES, "ROTATIONID"], ["line 5", "KEY=VALUE"]),
    "empty server": (["ESTSERVER=", *FOUR_LINES[1:]], ["line 1", "ESTSERVER is empty", "https URL"]),
    "empty id": ([*FOUR_LINES[:3], "ROTATIONID="], ["line 4", "ROTATIONID is empty", "letters"]),
    "no server": (FOUR_LINES[1:], ["ESTSERVER is missing", "https URL"]),
    "no id": (FOUR_LINES[:3], ["ROTATIONID is missing", "letters"]),
    "empty file": ([], ["is missing: expected"]),
    "plain http": (["ESTSERVER=http://a.example/est", *FOUR_LINES[1:]], ["line 1", "http://a.example/est", "https"]),
    "no host": (["ESTSERVER=https:///est", *FOUR_LINES[1:]], ["line 1", "https:///est", "host"]),
    "credentials": (["ESTSERVER=https://me:hunter2@a.example", *FOUR_LINES[1:]], ["line 1", "it holds credentials"]),
    "id with a dot": ([*FOUR_LINES[:3], "ROTATIONID=certs.1"], ["line 4", "certs.1", "letters"]),
    "id with a blank": ([*FOUR_LINES[:3], "ROTATIONID=certs 1"], ["line 4", "certs 1", "letters"]),
    "long id": ([*FOUR_LINES[:3], "ROTATIONID=" + "x" * 129], ["line 4", "1 to 128"]),
    "unprintable": ([*FOUR_LINES[:3], "ROTATIONID=certs\x1b[31m"], ["line 4", "control character"]),
}
IDS = {
    "one": ("PKEYIDS", "07"),
    "none": ("PKEYIDS", ""),
    "the same by value": ("PKEYIDS", "1,01"),
    "the same twice among three": ("CERTIDS", "03,09,3"),
    "zero": ("PKEYIDS", "00,01"),
    "ten": ("CERTIDS", "03,10"),
    "hexadecimal": ("CERTIDS", "03,0a"),
    "text": ("PKEYIDS", "01,tls"),
    "empty part": ("PKEYIDS", "01,,07"),
}
CONFIGURATIONS = {
    "gateway over http": ('server = "https:', 'server = "http:', ["tls.server", "https"]),
    "CA in a token": ('ca_source = "file"', 'ca_source = "pkcs11"', ["tls.ca_source", "pkcs11"]),
    "unknown source": ('pkey_source = "file"', 'pkey_source = "usb"', ["tls.pkey_source", "usb"]),
    "mixed sources": ('cert_source = "file"', 'cert_source = "pkcs11"', ["tls.cert_source"]),
    "no CA file": ("root.crt", "nowhere.crt", ["import.tls_cacert_path", "nowhere.crt"]),
    "no key": ("pkey.pem", "nowhere.pem", ["nowhere.pem", "private key"]),
    "no certificate": ("client.pem", "nowhere.pem", ["nowhere.pem", "certificate"]),
    "no TOML": ("[tls]", "[tls", ["not TOML", "line"]),
}


@pytest.mark.parametrize("wrong", REQUESTS)
def test_a_request_that_is_wrong_is_refused_with_its_place(files, refused, wrong):
    lines, words = REQUESTS[wrong]
    text = "".join(f"{line}\n" for line in lines)
    files.device.request_file.write_text(text.replace("{est}", files.device.est_url))
    said = refused(files)
    assert [word for word in [str(files.device.request_file), *words] if word not in said] == []
    assert "hunter2" not in said
    assert "\x1b" not in said


def test_a_request_that_is_no_text_is_refused_with_its_line(files, refused):
    files.device.write_request("certs-1")
    with files.device.request_file.open("ab") as file:
        file.write(b"NOTE=caf\xe9\n")
    said = refused(files)
    assert "line 5" in said
    assert "0xe9" in said


@pytest.mark.parametrize("wrong", IDS)
def test_ids_that_are_not_two_distinct_ones_are_refused_with_their_place(token, refused, wrong):
    key, ids = IDS[wrong]
    token.device.write_request("certs-1", **{key: ids})
    said = refused(token)
    assert f"line {2 if key == 'PKEYIDS' else 3} of {token.device.request_file}" in said
    assert f"{key}={ids}" in said or f"{key} is empty" in said


def test_ids_do_not_matter_where_keys_are_files(files):
    files.device.write_request("certs-1", pkeyids="", certids="3")
    assert files.device.run().returncode == SWITCHED


@pytest.mark.parametrize("wrong", CONFIGURATIONS)
def test_a_configuration_that_cannot_be_is_refused_with_its_file(files, refused, wrong):
    device = files.device
    old, new, words = CONFIGURATIONS[wrong]
    device.write_request("certs-1")
    assert old in device.sota_toml.read_text()
    device.sota_toml.write_text(device.sota_toml.read_text().replace(old, new))
    said = refused(files)
    assert [word for word in words if word not in said] == []


def test_no_configuration_at_all_is_refused(files, refused):
    files.device.write_request("certs-1")
    said = refused(files, environment={"SOTA_DIR": "/nowhere"})
    assert "/nowhere" in said


def test_a_storage_folder_that_is_not_there_is_refused(files, refused):
    files.device.write_request("certs-1")
    assert "/nowhere" in refused(files, environment={"STORAGE_DIR": "/nowhere"})


def test_a_key_that_does_not_fit_its_certificate_is_refused(files, refused):
    files.device.write_request("certs-1")
    (files.device.storage / "pkey.pem").write_bytes(key_pem(ec.generate_private_key(ec.SECP256R1())))
    assert "do not belong together" in refused(files)


@pytest.mark.parametrize("key", ["tls_pkey_path", "tls_clientcert_path", "tls_cacert_path"])
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: Path(path).symlink_to("/dev/zero"), os.mkdir])
def test_what_is_no_file_in_place_of_one_is_refused_and_not_waited_for(files, refused, key, make):
    path = files.device.sota()["import"][key]
    Path(path).unlink()
    make(path)
    files.device.run("status")
    files.device.run("slots")
    files.device.write_request("certs-refused")
    assert f"{path} " in refused(files)


def test_a_configuration_that_the_key_does_not_decrypt_is_refused(files, refused):
    device = files.device
    device.write_request("certs-1")
    value = device.encrypted_config()["app.env"]["Value"]
    spoilt = device.config_encrypted.read_text().replace(value, value[:-8] + "AAAAAAA=")
    device.config_encrypted.write_text(spoilt)
    said = refused(files)
    assert "app.env" in said
    assert files.gateway.event_names("certs-1") == ["CertRotationStarted failed", "CertRotationCompleted failed"]


def test_sota_toml_that_may_not_be_written_is_refused_before_anything_is_sent():
    with reachable_folder() as folder, running_factory(folder / "device", "file") as factory:
        device = factory.device
        device.write_request("certs-1")
        (folder / "device").chmod(0o755)
        os.chown(device.storage, NOBODY, -1)
        device.sota_toml.chmod(0o444)
        before = device.snapshot()
        done = subprocess.run(
            [sys.executable, "-c", AS_NOBODY],
            env=device.environment(),
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == REFUSED, done.stderr
        assert "import.tls_pkey_path" in done.stderr
        assert str(device.sota_toml) in done.stderr
        assert device.snapshot() == before
        assert factory.est.requests == factory.gateway.requests == []


# Root may write everything. What is needed is loaded first: where the interpreter lies is not for everybody to read.
AS_NOBODY = f"""
import codecs, encodings.ascii, importlib, os, pkgutil, sys
import handler
from handler import cli
for module in pkgutil.walk_packages(handler.__path__, "handler."):
    module.name == "handler.__main__" or importlib.import_module(module.name)
codecs.lookup("utf-8-sig")
if not os.geteuid():
    os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})
sys.exit(cli.main([]))
"""


@pytest.mark.parametrize("command", ["status", "check"])
def test_a_user_who_may_not_enter_the_storage_folder_gets_json_with_the_problem(command):
    with reachable_folder() as folder, running_factory(folder / "device", "file") as factory:
        device, sota = factory.device, folder / "sota.toml"
        (folder / "device").chmod(0o755)
        sota.write_bytes(device.sota_toml.read_bytes())
        sota.chmod(0o644)
        device.storage.chmod(0o500)
        device.storage.parent.chmod(0o500)
        done = subprocess.run(
            [sys.executable, "-c", AS_NOBODY.replace("[]))", f"['{command}', '--json']))")],
            env={**device.environment(), "SOTA_DIR": str(sota)},
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode in {REFUSED, PROBLEMS}, done.stderr
        assert "run this as root" in str(json.loads(done.stdout))


# The token


def test_any_object_of_somebody_else_in_an_unused_slot_is_refused_and_named(token, refused):
    token.device.write_request("certs-1")
    softhsm.add_secret(token.device.token, 7, label="disk")
    said = refused(token)
    assert "disk" in said
    assert "07" in said


@pytest.mark.parametrize("key", ["p11.tls_pkey_id", "p11.tls_clientcert_id"])
def test_an_object_that_the_configuration_names_and_that_is_not_there_is_refused(token, refused, key):
    device = token.device
    device.write_request("certs-1", pkeyids="05,07", certids="05,09")
    name = key.removeprefix("p11.")
    value = device.sota()["p11"][name]
    device.sota_toml.write_text(device.sota_toml.read_text().replace(f'{name} = "{value}"', f'{name} = "05"'))
    said = refused(token)
    assert "05" in said


def test_two_certificates_under_the_id_in_use_are_refused(token, refused):
    token.device.write_request("certs-1")
    softhsm.add_certificate(token.device.token, 3, token.device.certificate, label="other")
    said = refused(token)
    assert "'client'" in said
    assert "'other'" in said


def test_names_that_fioctl_manages_are_never_written(files, refused):
    device = files.device
    device.write_request("certs-1")
    names = device.sota()["import"]
    fioctl = device.folder / "etc/sota/conf.d/z-50-fioctl.toml"
    fioctl.write_text(f'[import]\ntls_pkey_path = "{names["tls_pkey_path"]}"\n')
    assert "z-50-fioctl.toml" in refused(files)
