"""What a rotation meets on a device: a token with other things in it, other callers, a terminal, servers away."""

import os
import pty
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from handler.device.storage import DeviceLock
from tests import softhsm
from tests.privileges import NOBODY, reachable_folder
from tests.simulators.device import REPOSITORY
from tests.simulators.factory import running_factory

from .in_process import call

SWITCHED, DONE, PENDING, REFUSED = 123, 0, 75, 78


@pytest.fixture
def token_factory(tmp_path):
    with running_factory(tmp_path / "device", "token") as factory:
        factory.device.write_request("certs-1")
        yield factory


@pytest.fixture
def file_factory(tmp_path):
    with running_factory(tmp_path / "device", "file") as factory:
        factory.device.write_request("certs-1")
        yield factory


def refused(factory):
    """Run the handler; make sure that it refuses and that nothing changed. Give its words."""
    before = factory.device.snapshot()
    done = factory.device.run()
    assert done.returncode == REFUSED, done.stderr
    assert "Traceback" not in done.stderr
    assert factory.device.snapshot() == before
    assert factory.est.requests == []
    assert [each.path for each in factory.gateway.requests if each.method == "PATCH"] == []
    return done.stderr


# The token


def test_somebody_elses_key_in_the_unused_slot_is_refused_and_kept(token_factory):
    softhsm.add_key_pair(token_factory.device.token, 7, label="edgelock")
    said = refused(token_factory)
    assert "edgelock" in said
    assert "07" in said
    assert token_factory.gateway.event_names("certs-1") == ["CertRotationStarted", "CertRotationCompleted failed"]


def test_somebody_elses_certificate_in_the_unused_slot_is_refused_and_kept(token_factory):
    softhsm.add_certificate(token_factory.device.token, 9, token_factory.device.certificate, label="cloud")
    assert "cloud" in refused(token_factory)


def test_two_private_keys_under_the_id_in_use_are_refused(token_factory):
    softhsm.add_key_pair(token_factory.device.token, 1, label="other")
    said = refused(token_factory)
    assert "'tls'" in said
    assert "'other'" in said


def test_our_own_leftovers_in_the_unused_slot_are_replaced(token_factory):
    device = token_factory.device
    softhsm.add_key_pair(device.token, 7)
    softhsm.add_key_pair(device.token, 7)
    softhsm.add_certificate(device.token, 9, device.certificate)
    assert device.run().returncode == SWITCHED
    kinds = (("CERTIFICATE", "03"), ("CERTIFICATE", "09"))
    pairs = [(kind, name) for kind in ("PRIVATE_KEY", "PUBLIC_KEY") for name in ("01", "07")]
    assert sorted((each.object_class, each.id) for each in device.token_objects()) == [*kinds, *pairs]


def test_an_id_in_use_written_with_one_digit_is_the_same_slot(token_factory):
    device = token_factory.device
    device.sota_toml.write_text(device.sota_toml.read_text().replace('"01"', '"1"').replace('"03"', '"3"'))
    assert device.run().returncode == SWITCHED
    assert (device.sota()["p11"]["tls_pkey_id"], device.sota()["p11"]["tls_clientcert_id"]) == ("07", "09")


def test_a_wrong_pin_is_tried_once_and_named_without_its_digits(token_factory):
    hsm = token_factory.device.folder / "usr/lib/sota/conf.d/40-hsm.toml"
    hsm.write_text(hsm.read_text().replace(token_factory.device.token.pin, "999111"))
    before = {path: path.read_bytes() for path in token_factory.device.storage.iterdir() if path.is_file()}
    done = token_factory.device.run()
    assert done.returncode == REFUSED
    assert "PIN" in done.stderr
    assert "999111" not in done.stderr + done.stdout
    assert {path: path.read_bytes() for path in token_factory.device.storage.iterdir() if path.is_file()} == before


def test_a_token_that_is_not_there_is_waited_for_by_whoever_runs_next(token_factory):
    device = token_factory.device
    away = device.token.directory.rename(device.folder / "away")
    done = device.run()
    assert done.returncode == PENDING
    assert device.token.label in done.stderr
    away.rename(device.token.directory)
    assert device.run("resume").returncode == DONE
    assert token_factory.gateway.event_names("certs-1")[-1] == "CertRotationCompleted"


def test_a_p384_key_is_followed_by_a_p384_key(tmp_path):
    for keys in ("file", "token"):
        with running_factory(tmp_path / keys, keys, curve=ec.SECP384R1()) as factory:
            factory.device.write_request("certs-1")
            done = factory.device.run()
            assert done.returncode == SWITCHED, done.stderr
            with factory.device.private_key() as key:
                assert key.curve.name == "secp384r1"
            assert factory.device.plaintexts()


def test_a_subject_alternative_name_is_asked_for_again(tmp_path):
    with running_factory(tmp_path / "device", "file", san=["device-1.example"]) as factory:
        factory.device.write_request("certs-1")
        assert factory.device.run().returncode == SWITCHED


# The configuration


def test_both_names_go_into_the_most_significant_writable_file_and_comments_stay(file_factory):
    device = file_factory.device
    fioctl = device.folder / "etc/sota/conf.d/z-50-fioctl.toml"
    before = (fioctl.read_bytes(), fioctl.stat().st_mtime_ns)
    text = device.sota_toml.read_text()
    device.sota_toml.write_text(text.replace("[storage]", "# kept: storage\n[storage]  # here too"))
    assert device.run().returncode == SWITCHED
    assert (fioctl.read_bytes(), fioctl.stat().st_mtime_ns) == before
    after = device.sota_toml.read_text()
    assert "# kept: storage\n[storage]  # here too" in after
    changed = [new for new, old in zip(after.splitlines(), text.splitlines(), strict=False) if new != old]
    assert after.startswith("# Written by lmp-device-register\n")
    assert len([line for line in changed if "tls_" in line]) >= 2


def test_names_that_fioctl_manages_are_never_written(file_factory):
    device = file_factory.device
    names = device.sota()["import"]
    fioctl = device.folder / "etc/sota/conf.d/z-50-fioctl.toml"
    fioctl.write_text(f'[import]\ntls_pkey_path = "{names["tls_pkey_path"]}"\n')
    assert "z-50-fioctl.toml" in refused(file_factory)


# Other callers, terminals, servers that are away


def test_a_second_call_waits_until_the_first_is_done(file_factory):
    device = file_factory.device
    with DeviceLock(device.storage).acquire(1.0) as lock, device.start() as process:
        threading.Timer(0.5, lock.release).start()
        process.communicate(timeout=30)
    assert process.returncode == SWITCHED


def test_a_terminal_shows_a_line_per_step_and_what_is_in_use(file_factory):
    device = file_factory.device
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "handler", "rotate"],
        stdout=theirs,
        stderr=theirs,
        env=device.environment() | {"LANG": "C.UTF-8"},
        cwd=REPOSITORY,
    ) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                read = os.read(ours, 4096)
            except OSError:  # the other end is closed
                break
            shown += read
    os.close(ours)
    text = shown.decode()
    assert process.returncode == DONE, text
    assert "[2/5] Lock device configuration on server … ok, 0." in text
    assert "Done: certs-1. In use now: key " in text


def test_events_that_the_gateway_does_not_take_go_out_later(file_factory):
    factory, device = file_factory, file_factory.device
    # Old events: not taken during the rotation; taken when the completion is reported with the new certificate.
    factory.gateway.faults.add("POST", "/events", times=1, status=400, body="not now")
    assert device.run().returncode == SWITCHED
    names = factory.gateway.event_names("certs-1")
    assert len(names) == 7
    assert names[-1] == "CertRotationCompleted"


def test_proxies_and_ca_bundles_of_the_environment_play_no_part(file_factory):
    environment = {
        "HTTPS_PROXY": "http://127.0.0.1:9",
        "ALL_PROXY": "http://127.0.0.1:9",
        "REQUESTS_CA_BUNDLE": "/nowhere",
        "SSL_CERT_FILE": "/nowhere",
    }
    assert file_factory.device.run(environment=environment).returncode == SWITCHED


def test_config_url_takes_the_place_of_the_servers(file_factory):
    url = f"{file_factory.gateway_server.url}/config"
    assert file_factory.device.run(environment={"CONFIG_URL": url}).returncode == SWITCHED


def test_an_empty_storage_or_no_encrypted_configuration_is_fine(file_factory):
    file_factory.device.config_encrypted.unlink()
    assert file_factory.device.run().returncode == SWITCHED
    assert not file_factory.device.config_encrypted.exists()


def test_a_request_file_that_was_removed_means_nothing_to_do(file_factory):
    Path(file_factory.device.request_file).unlink()
    before = file_factory.device.snapshot()
    done = file_factory.device.run()
    assert (done.returncode, file_factory.device.snapshot()) == (DONE, before)
    assert "nothing to do" in done.stdout


# Who calls, and what a broken disk left


AS_NOBODY = f"""
import sys
from handler import cli
from handler.device.device import device
from handler.console.terminal import progress
from handler.device.device import request
from handler.rotation.rotator import rotator as rotation
from handler.journal import journal as state
from handler.rotation.rotator import steps
from handler.device.device import storage
from handler.console.terminal import table
import encodings.ascii, os
b"x".decode("utf-8-sig")  # where the interpreter lies is not for everybody to read
os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})
sys.exit(cli.main([]))
"""


def test_somebody_who_is_not_root_is_told_so():
    with (
        reachable_folder() as folder,
        running_factory(folder / "device", "file") as factory,
    ):
        device = factory.device
        device.write_request("certs-1")
        for path in (folder / "device").rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
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
        assert "root" in done.stderr
        assert device.snapshot() == before


def test_a_journal_that_cannot_be_read_is_set_aside(file_factory):
    folder = file_factory.device.storage / "renew-client-cert"
    folder.mkdir(mode=0o700)
    (folder / "rotation.json").write_text('{"version": 1, "rotation": {')
    assert call(file_factory.device).status == SWITCHED
    assert (folder / "rotation.mended").exists()
