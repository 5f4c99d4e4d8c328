"""Trouble on the device itself: permissions, a clock that is not set, a module that fails, several callers at once."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from tests.crash.invariants import broken_invariants
from tests.privileges import reachable_folder
from tests.simulators.device import REPOSITORY
from tests.simulators.factory import running_factory

from .in_process import call

ID = "certs-trouble"
DONE, PENDING, REFUSED, SWITCHED = 0, 75, 78, 123
NOBODY = 65534


@pytest.fixture(params=["file", "token"])
def factory(request, tmp_path):
    with running_factory(tmp_path / "device", request.param) as running:
        running.device.write_request(ID)
        yield running


def test_handler_resume_and_a_person_at_once_make_one_rotation(factory):
    device = factory.device
    for number in range(3):
        device.write_request(f"certs-{number}")
        with ThreadPoolExecutor(4) as pool:
            calls = [pool.submit(device.run, *arguments) for arguments in ((), ("resume",), ("rotate",), ())]
        statuses = [each.result().returncode for each in calls]
        assert set(statuses) <= {DONE, SWITCHED}, [each.result().stderr for each in calls]
        assert device.run("resume").returncode == DONE
        assert [each["event"]["success"] for each in factory.gateway.completed(f"certs-{number}")] == [True]
        assert broken_invariants(factory, f"certs-{number}", completed=True) == []


def test_a_clock_behind_the_est_servers_is_pending_and_named(factory):
    ahead = datetime.now(UTC) + timedelta(hours=2)

    def issued_two_hours_ahead(draft, _pki):
        draft.begins, draft.ends = ahead, ahead + timedelta(days=365)

    factory.est.misissue = issued_two_hours_ahead
    factory.est.headers = {"Date": format_datetime(ahead.replace(microsecond=0), usegmt=True)}
    outcome = call(factory.device)
    assert outcome.status == PENDING
    assert "clock of this device is wrong" in outcome.said
    factory.est.misissue, factory.est.headers = None, {}
    assert call(factory.device, "resume").status == DONE
    assert broken_invariants(factory, ID, completed=True) == []


def test_a_clock_at_1970_is_pending_and_named(tmp_path):
    with running_factory(tmp_path / "device", "file") as factory:
        factory.device.write_request(ID)
        done = factory.device.run(environment={"FAKETIME": "1970-01-02 00:00:00", "LD_PRELOAD": FAKETIME})
        assert done.returncode == PENDING
        assert "clock shows 1970-01-0" in done.stderr
        assert factory.device.run("resume").returncode == DONE
        assert broken_invariants(factory, ID, completed=True) == []


(FAKETIME,) = map(str, Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))


def test_somebody_who_is_not_root_is_told_so():
    with (
        reachable_folder() as folder,
        running_factory(folder / "device", "file") as factory,
    ):
        device = factory.device
        device.write_request(ID)
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


AS_NOBODY = f"""
import sys
from handler import cli, device, progress, request, rotation, state, steps, storage
import os
b"x".decode("utf-8-sig")  # where the interpreter lies is not for everybody to read
os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})
sys.exit(cli.main([]))
"""


def test_a_module_that_is_missing_is_refused(tmp_path):
    with running_factory(tmp_path / "device", "token") as factory:
        hsm = factory.device.folder / "usr/lib/sota/conf.d/40-hsm.toml"
        hsm.write_text(hsm.read_text().replace("libsofthsm2.so", "libmissing.so"))
        factory.device.write_request(ID)
        done = factory.device.run()
        assert done.returncode == REFUSED
        assert "libmissing.so" in done.stderr


def test_an_rsa_key_in_use_is_refused_with_the_reason(tmp_path):
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import rsa  # noqa: PLC0415

    with running_factory(tmp_path / "device", "file", curve=ec.SECP256R1()) as factory:
        factory.device.write_request(ID)
        key = rsa.generate_private_key(65537, 2048)
        (factory.device.storage / "pkey.pem").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        outcome = call(factory.device)
        assert outcome.status == REFUSED
        assert "RSA" in outcome.said


def test_a_journal_that_cannot_be_read_is_set_aside(factory):
    folder = factory.device.storage / "renew-client-cert"
    folder.mkdir(mode=0o700)
    (folder / "rotation.json").write_text('{"version": 1, "rotation": {')
    assert call(factory.device).status == SWITCHED
    assert (folder / "rotation.broken").exists()
