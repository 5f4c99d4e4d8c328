"""Disks that fail under a rotation: full, read-only from the start or from the middle on, and without one more write.

The program runs as a process in a mount namespace of its own, where its storage folder, or the folder of its token, is
a file system of a few pages or one that is mounted read-only. These tests need root, as the program itself does.
"""

import os
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from pkcs11 import ObjectClass

from handler.device.storage import FOLDER
from handler.exit_status import PENDING, REFUSED, SWITCHED
from handler.journal.pending import MARKER
from tests import softhsm
from tests.privileges import NOBODY
from tests.simulators.device import REPOSITORY
from tests.simulators.factory import running_factory
from tests.simulators.pki import spki_pem

from .in_process import call, finish

ID = "certs-disk"
REQUESTS = [
    ("est", "POST", "/simplereenroll"),
    ("gateway", "PATCH", "/device"),
    ("gateway", "GET", "/config-device"),  # looked at beside the enrolment
    ("gateway", "PATCH", "/config"),
]

# Arguments: the folder, a spare one, free pages, the program. What the program leaves is copied to the spare folder.
FULL = """
cp -a "$1/." "$2" && mount -t tmpfs -o mode=700 none "$1" && cp -a "$2/." "$1"
used=$(( $(df --output=used -B 4096 "$1" | tail -n 1) ))
mount -o remount,size=$(( (used + $3) * 4096 )) "$1" || exit 99
folder=$1 spare=$2
shift 3
"$@"
status=$?
rm -rf "$spare" && mkdir -m 700 "$spare" && cp -a "$folder/." "$spare" || exit 99
exit $status
"""
# Arguments: "ro" or "rw", the folder, the program.
MOUNTED = """
mount --bind "$2" "$2" && mount -o "remount,bind,$1" "$2" || exit 99
shift 2
exec "$@"
"""


@pytest.fixture(params=["files", "token's storage", "token"])
def place(request, tmp_path):
    """Run a factory, and give it with the folder of its device whose disk is to fail."""
    with running_factory(tmp_path / "device", "file" if request.param == "files" else "token") as factory:
        device = factory.device
        yield factory, device.token.directory if request.param == "token" else device.storage


def arranged(script, *arguments):
    """Give the command that runs the script in its own mount namespace."""
    return ["unshare", "--mount", "sh", "-c", script, "sh", *map(str, arguments)]


def run(device, command):
    return subprocess.run(
        command, cwd=REPOSITORY, env=device.environment(), capture_output=True, text=True, timeout=60, check=False
    )


def untouched(factory, identity, done):
    """Make sure that a call ended in order, and left the identity in use as it was unless it says otherwise."""
    assert done.returncode in (PENDING, REFUSED, SWITCHED), done.stderr
    assert "Traceback" not in done.stderr
    now = factory.device.current_identity()
    assert now.whole
    assert (now == identity) == (done.returncode != SWITCHED), done.stderr


def test_a_full_disk_leaves_the_identity_in_use_alone(place, tmp_path):
    factory, folder = place
    device = factory.device
    ends = []
    for free in (0, 2, 4, 64):
        rotation_id = f"certs-full-{free}"
        device.write_request(rotation_id)
        identity = device.current_identity()
        spare = tmp_path / "spare"
        spare.mkdir(mode=0o700)
        done = run(device, arranged(FULL, folder, spare, free, *device.command()))
        shutil.rmtree(folder)
        spare.rename(folder)
        untouched(factory, identity, done)
        ends.append(done.returncode)
        if done.returncode == PENDING and folder == device.storage:
            full = (f"No space left on device: {folder}/", f"a refusal could not be noted in {folder}")
            assert any(each in done.stderr for each in full)
            assert "make room there" in done.stderr
        assert finish(factory, rotation_id) == [], (free, done.stderr)
    assert ends[0] in (PENDING, REFUSED)
    assert ends[-1] == SWITCHED


def test_a_read_only_disk_is_named_and_nothing_changes(place):
    factory, folder = place
    device = factory.device
    device.write_request(ID)
    before = device.snapshot()
    done = run(device, arranged(MOUNTED, "ro", folder, *device.command()))
    assert done.returncode in (PENDING, REFUSED), done.stderr
    assert "Traceback" not in done.stderr
    if folder == device.storage:
        assert "read-only" in done.stderr
        assert device.snapshot() == before
        assert factory.est.requests == []
    assert finish(factory, ID) == []


def test_a_dry_run_says_that_a_full_disk_lets_no_rotation_begin(tmp_path):
    with running_factory(tmp_path / "device", "file") as factory:
        device = factory.device
        device.write_request(ID)
        for command in (["rotate"], ["rotate", "--dry-run"]):
            done = run(device, arranged(FULL, device.storage, tmp_path / "spare", 0, *device.command(*command)))
            assert done.returncode == PENDING, done.stdout
        assert f"{device.storage}: 0 KiB" in done.stderr


@pytest.mark.parametrize("name", ["cert-rotation.state.completed", f"{FOLDER}/{MARKER}", f"{FOLDER}/config.encrypted"])
def test_a_folder_in_the_place_of_a_file_is_named_with_what_to_do(tmp_path, name):
    with running_factory(tmp_path / "device", "file") as factory:
        device = factory.device
        device.write_request(ID)
        factory.gateway.faults.add("PATCH", "/device", times=None, status=503)
        assert call(device).status == PENDING
        factory.gateway.faults.clear()
        folder = device.storage / name
        folder.unlink(missing_ok=True)
        folder.mkdir()
        done = device.run("resume")
        assert done.returncode == PENDING
        assert f"Is a directory: {folder}; a file belongs there: move that folder away" in done.stderr
        folder.rmdir()
        assert finish(factory, ID) == []


@pytest.mark.parametrize("name", ["sota.toml", "config.encrypted"])
def test_a_file_that_is_a_mount_point_is_refused_before_anything_changes(tmp_path, name):
    """It can be written, and yet nothing can take its place: found at the switch, that would be too late."""
    with running_factory(tmp_path / "a device", "file") as factory:
        device = factory.device
        device.write_request(ID)
        before = device.untouched()
        for command in (device.command(), device.command("check")):
            done = run(device, arranged(MOUNTED, "rw", device.storage / name, *command))
            assert "mount point by itself" in done.stdout + done.stderr
            assert str(device.storage / name) in done.stdout + done.stderr
            assert done.returncode == (REFUSED if command == device.command() else 2)
        assert device.untouched() == before
        assert factory.est.csrs == []
        assert finish(factory, ID) == []


WITHOUT_CHOWN = ["setpriv", "--bounding-set=-chown"]
"""As the services run, which cannot give a file to another user."""


@pytest.fixture(params=["sota.toml", "config.encrypted"])
def foreign(request, tmp_path):
    """Run a factory, and give it with a file of its device that belongs to another user; a rotation is requested."""
    with running_factory(tmp_path / "device", "file") as factory:
        path = factory.device.storage / request.param
        factory.device.write_request(ID)
        os.chown(path, NOBODY, NOBODY)
        yield factory, path


def test_a_file_of_another_user_is_refused_before_anything_changes_where_it_could_not_be_given_back(foreign):
    """A call of root's own finishes, and the owner stays."""
    factory, path = foreign
    device = factory.device
    before = device.untouched()
    done = run(device, [*WITHOUT_CHOWN, *device.command()])
    assert done.returncode == REFUSED, done.stderr
    assert f"{path} belongs to user {NOBODY} and group {NOBODY}" in done.stderr
    assert device.untouched() == before
    assert factory.est.csrs == []
    assert ("belongs to user" in run(device, device.command("check")).stdout) == (path == device.sota_toml)
    assert finish(factory, ID) == []
    assert (path.stat().st_uid, path.stat().st_gid) == (NOBODY, NOBODY)


def test_a_rotation_that_began_keeps_all_where_a_file_could_not_be_given_back_and_ends_where_it_can(foreign):
    factory, path = foreign
    device, identity = factory.device, factory.device.current_identity()
    factory.gateway.faults.add("PATCH", "/device", status=503, headers={"Retry-After": "3000"})
    assert run(device, device.command()).returncode == PENDING
    done = run(device, [*WITHOUT_CHOWN, *device.command("resume")])
    assert f"{path} belongs to user {NOBODY} and group {NOBODY}" in done.stderr
    untouched(factory, identity, done)
    assert finish(factory, ID) == []


def test_the_next_toml_file_is_used_where_one_is_a_mount_point(tmp_path):
    with running_factory(tmp_path / "device", "file") as factory:
        device = factory.device
        device.write_request(ID)
        before = device.sota_toml.read_bytes()
        next_one = device.folder / "etc/sota/conf.d/z-60-local.toml"
        next_one.write_text("# of this device\n")
        done = run(device, arranged(MOUNTED, "rw", device.sota_toml, *device.command()))
        assert done.returncode == SWITCHED, done.stderr
        assert device.sota_toml.read_bytes() == before
        names = tomllib.loads(next_one.read_text())["import"]
        assert spki_pem(load_pem_private_key(Path(names["tls_pkey_path"]).read_bytes(), None).public_key()) == (
            factory.gateway.current
        )


@pytest.mark.parametrize("place", ["files", "token"], indirect=True)
@pytest.mark.parametrize(("server", "method", "path"), REQUESTS)
def test_a_disk_that_turns_read_only_in_the_middle(place, until, server, method, path):
    factory, folder = place
    device = factory.device
    device.write_request(ID)
    identity = device.current_identity()
    fault = getattr(factory, server).faults.add(method, path, delay=0.7)
    command = arranged(MOUNTED, "rw", folder, *device.command())
    with subprocess.Popen(
        command, cwd=REPOSITORY, env=device.environment(), stderr=subprocess.PIPE, text=True
    ) as program:
        until(lambda: fault.used)
        remount = ["nsenter", "--mount", f"--target={program.pid}", "mount", "-o", "remount,bind,ro", str(folder)]
        # Refused while a file is open for writing: events are being journalled.
        until(lambda: subprocess.run(remount, capture_output=True, check=False).returncode == 0)
        _, errors = program.communicate(timeout=60)
    untouched(factory, identity, subprocess.CompletedProcess(command, program.returncode, "", errors))
    assert finish(factory, ID) == []


@pytest.mark.parametrize("keys", ["file", "token"])
@pytest.mark.parametrize(("name", "error"), [("fsync", "EIO"), ("rename", "ENOSPC")])
def test_a_disk_that_makes_nothing_durable_any_more(tmp_path, keys, name, error):
    """From the N-th such call on, every one fails; N grows until the rotation does not come so far."""
    with running_factory(tmp_path / "device", keys) as factory:
        device = factory.device
        for number in (1, 2, 4, 7):
            rotation_id = f"certs-{name}-{number}"
            device.write_request(rotation_id)
            identity = device.current_identity()
            fault = f"inject={name}:error={error}:when={number}+"
            strace = ["strace", "-f", "--seccomp-bpf", "-qq", "-o", "/dev/null", "-e", f"trace={name}", "-e", fault]
            done = run(device, [*strace, *device.command()])
            untouched(factory, identity, done)
            assert finish(factory, rotation_id) == [], (number, done.stderr)


@pytest.mark.parametrize("keys", ["file", "token"])
def test_a_new_certificate_that_got_lost_is_not_switched_to(tmp_path, keys):
    with running_factory(tmp_path / "device", keys) as factory:
        device = factory.device
        device.write_request(ID)
        identity = device.current_identity()
        factory.gateway.faults.add("PATCH", "/config", times=None, status=503)
        assert call(device).status == PENDING
        factory.gateway.faults.clear()
        if device.token:
            softhsm.remove_objects(device.token, 9, ObjectClass.CERTIFICATE)
        else:
            (lost,) = set(device.storage.glob("client.*.pem")) - {Path(identity.certificate_name)}
            lost.unlink()
        assert call(device).status == REFUSED
        assert device.current_identity() == identity
