"""Somebody else has put another identity in the place of the one in use."""

from pathlib import Path

import pytest

from handler.exit_status import DONE, PENDING, REFUSED, SWITCHED
from handler.journal.pending import read_pending
from tests import journal as journals
from tests.invariants import broken_files, broken_invariants
from tests.simulators.factory import running_factory

from .in_process import call
from .left_behind import ID, left_after
from .stopping import new_certificate_is_refused


@pytest.mark.parametrize("rolled_back", [False, True])
@pytest.mark.parametrize("command", ["abort", "resume"])
def test_an_identity_that_somebody_else_put_there_is_not_touched(files, command, rolled_back):
    """Registered again while a rotation was pending: the old identity of that rotation is nothing to return to."""
    left_after(files, "PATCH", "/config")
    device = files.device
    if rolled_back:
        journal = journals.read(device.storage)
        journal["rotation"]["rollback"] = "the gateway refused the new certificate"
        journals.write(device.storage, journal)
    for name in ("pkey", "client"):
        (device.storage / f"{name}.other.pem").write_bytes((device.storage / f"{name}.pem").read_bytes())
        text = device.sota_toml.read_text()
        device.sota_toml.write_text(text.replace(f"{name}.pem", f"{name}.other.pem"))
    before = device.sota_toml.read_bytes()
    done = device.run(command)
    assert done.returncode == (DONE if command == "abort" else REFUSED), done.stderr
    assert "it was changed during the rotation" in done.stderr
    assert device.sota_toml.read_bytes() == before
    assert read_pending(device.storage) is None
    assert (device.storage / "pkey.pem").exists()
    assert len(device.private_key_files()) == 2
    assert broken_files(files) == []


def moved(factory):
    """Have sota.toml name copies of the identity that it names."""
    device = factory.device
    names = device.current_identity()
    for number, name in enumerate((names.key, names.certificate_name)):
        copy = device.storage / f"copy-{number}.pem"
        copy.write_bytes(Path(name).read_bytes())
        device.sota_toml.write_text(device.sota_toml.read_text().replace(name, str(copy)))


@pytest.mark.parametrize("place", ["POST /events", "moved already"])
def test_what_only_the_new_key_reads_is_moved_to_the_key_that_somebody_else_put_there(files, place):
    """Somebody has moved the identity in use to other files: the key that goes is the only one that reads anything."""
    if place == "moved already":  # the files on the server, and the answer to that was lost
        files.gateway.faults.add("PATCH", "/config", times=None, drop="after")
    else:  # switched, and not proved
        files.gateway.faults.add("*", "*", announced=True, times=None, status=503)
    files.device.write_request(ID)
    assert call(files.device).status in (PENDING, SWITCHED)
    files.gateway.faults.clear()
    identity = files.device.current_identity()
    moved(files)
    done = files.device.run("resume")
    assert (done.returncode, "it was changed during the rotation" in done.stderr) == (REFUSED, True)
    assert files.device.current_identity().public_key == identity.public_key
    assert broken_files(files) == []
    assert read_pending(files.device.storage) is None
    # fioconfig calls again when it starts.
    assert call(files.device).status == SWITCHED
    assert call(files.device, "resume").status == DONE
    assert broken_files(files) == []


def test_an_identity_that_is_named_wrong_ends_no_rotation(files):
    files.gateway.faults.add("PATCH", "/config", times=None, drop="after")
    files.device.write_request(ID)
    assert call(files.device).status == PENDING
    files.gateway.faults.clear()
    right = files.device.sota_toml.read_text()
    files.device.sota_toml.write_text(right.replace("pkey.pem", "pkye.pem"))
    before = files.device.snapshot()
    for command in ("resume", "abort"):
        done = files.device.run(command)
        assert (done.returncode, "pkye.pem cannot be read" in done.stderr) == (REFUSED, True)
        assert files.device.snapshot() == before
    files.device.sota_toml.write_text(right)
    assert files.device.run("resume").returncode == DONE
    assert broken_invariants(files, ID, completed=True) == []


@pytest.mark.parametrize("command", ["resume", "abort"])
def test_the_new_key_is_kept_where_the_gateway_does_not_take_who_is_named_now(files, command):
    """A device with the right identity in use later gets the files with it; no later rotation is held up meanwhile."""
    files.gateway.faults.add("PATCH", "/config", times=None, drop="after")
    files.device.write_request(ID)
    assert call(files.device).status == PENDING
    files.gateway.faults.clear()
    keys = files.device.private_key_files()
    right = files.device.sota_toml.read_text()
    moved(files)
    files.gateway.faults.add("GET", "/config-device", times=None, status=403)
    done = files.device.run(command)
    assert (done.returncode, "because files on the server" in done.stderr) in ((REFUSED, True), (DONE, True))
    assert set(keys) < set(files.device.private_key_files())
    files.gateway.faults.clear()
    assert "run `renew-client-cert resume` to clean up" in files.device.run("status").stdout
    files.device.sota_toml.write_text(right)
    for number in range(2):
        (files.device.storage / f"copy-{number}.pem").unlink()
    done = files.device.run("resume")
    assert (done.returncode, "had left values encrypted to another key" in done.stderr) == (DONE, True)
    assert broken_files(files) == []
    assert call(files.device).status == SWITCHED
    assert call(files.device, "resume").status == DONE
    assert len(files.device.private_key_files()) == 3  # one is that of the rotation that was given up
    assert broken_files(files) == []


def test_a_key_that_was_rolled_back_is_kept_until_the_gateway_takes_who_is_named_now(files):
    """It may have accepted that key's certificate for good; the rotation that uses the key again has asked nothing."""
    new_certificate_is_refused(files)
    files.device.write_request(ID)
    assert call(files.device).status == REFUSED
    files.est.faults.add("POST", "/simplereenroll", times=None, status=503)
    files.device.write_request("certs-again")
    assert call(files.device).status == PENDING
    keys = files.device.private_key_files()
    moved(files)
    files.gateway.faults.add("GET", "/config-device", times=None, status=403)
    assert call(files.device, "resume").status == REFUSED
    assert set(keys) < set(files.device.private_key_files())
    assert read_pending(files.device.storage).rotation_id is None


def test_a_device_that_moved_into_a_token_meanwhile_keeps_its_files_readable(files, tmp_path):
    left_after(files, "PATCH", "/config")
    with running_factory(tmp_path / "other", "token") as other:
        old = files.device.private_key_files()
        files.device.hsm_toml.write_bytes(other.device.hsm_toml.read_bytes())
        text = files.device.sota_toml.read_text().replace('source = "file"', 'source = "pkcs11"')
        text = text.replace('ca_source = "pkcs11"', 'ca_source = "file"')
        files.device.sota_toml.write_text(text + '\n[p11]\ntls_pkey_id = "01"\ntls_clientcert_id = "03"\n')
        done = files.device.run("resume", environment=other.device.token.environment)
        assert (done.returncode, "it was changed during the rotation" in done.stderr) == (REFUSED, True)
        # The gateway does not know this identity yet, so the key of the rotation is kept for what it may read.
        assert "because files on the server" in done.stderr
        assert files.device.private_key_files() == old


@pytest.mark.parametrize("how", ["links", "hard links", "another spelling"])
@pytest.mark.parametrize("moment", ["POST /events", "tidying up"])
def test_another_name_of_the_new_files_is_no_other_identity(files, how, moment):
    """The files themselves may not be touched, whatever leads to them."""
    device = files.device
    device.write_request(ID)
    if moment == "POST /events":
        files.gateway.faults.add("*", "*", announced=True, times=None, status=503)
    assert call(device).status == SWITCHED
    files.gateway.faults.clear()
    identity = device.current_identity()
    (device.folder / "same").symlink_to(device.storage)
    for number, name in enumerate((identity.key, identity.certificate_name)):
        other = device.storage / f"link-{number}.pem"
        if how == "links":
            other.symlink_to(name)
        elif how == "hard links":
            other.hardlink_to(name)
        else:
            other = device.folder / "same" / Path(name).name
        device.sota_toml.write_text(device.sota_toml.read_text().replace(name, str(other)))
    done = device.run("resume")
    assert done.returncode == DONE, done.stderr
    assert device.current_identity().public_key == identity.public_key == files.gateway.current
    assert [each["event"]["success"] for each in files.gateway.completed(ID)] == [True]
    assert broken_files(files) == []
    device.write_request("certs-next")
    assert call(device).status == SWITCHED
    assert call(device, "resume").status == DONE
    assert device.current_identity().public_key == files.gateway.current
    assert broken_files(files) == []
