"""`rotate --dry-run` says what a rotation would do, and does nothing."""

from pathlib import Path

import pytest

from handler.exit_status import DONE, REFUSED, SWITCHED
from handler.journal.snapshot import Snapshot
from tests import journal as journals
from tests.modules import COUNT_LOW, FlaggedToken

from .left_behind import ID, left_after

(FAKETIME,) = map(str, Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))


def read_state(device):
    """Give the rotation that is pending."""
    return Snapshot.of(device.storage).rotation


def test_a_dry_run_names_slots_files_and_requests_and_touches_nothing(factory):
    device = factory.device
    device.write_request(ID)
    before = device.snapshot()
    done = device.run("rotate", "--dry-run")
    assert done.returncode == DONE, done.stderr
    assert device.snapshot() == before
    assert factory.gateway.requests == factory.est.requests == []
    for named in (
        ID,
        f"{device.est_url}/simplereenroll",
        str(device.sota_toml),
        "/device",
        "/config-device",
        "/events",
        "make a P-256 key as ",
    ):
        assert named in done.stdout
    assert ("01 -> 07" in done.stdout) == bool(device.token)
    assert ("03 -> 09" in done.stdout) == bool(device.token)


def test_a_dry_run_says_what_the_rotation_would_be_refused_for(token):
    token.device.write_request(ID, pkeyids="01,1")
    before = token.device.snapshot()
    done = token.device.run("rotate", "--dry-run")
    assert done.returncode == REFUSED
    assert "PKEYIDS" in done.stderr
    assert token.device.snapshot() == before
    assert token.gateway.requests == []


def test_a_dry_run_and_a_look_at_the_date_put_no_pin_at_risk(token, tmp_path):
    module = FlaggedToken(token.device, tmp_path)
    for arguments in (["--dry-run"], ["--if-due=0.1"]):
        done = token.device.run(
            "rotate", *arguments, f"--est-server={token.device.est_url}", environment=module.environment(COUNT_LOW)
        )
        assert done.returncode == (REFUSED if arguments == ["--dry-run"] else DONE), done.stderr
    assert module.logins == 0


def test_a_dry_run_is_refused_where_the_rotation_would_be(files):
    done = files.device.run("rotate", "--dry-run", f"--est-server={files.device.est_url}", "--storage-dir=/nowhere")
    assert (done.returncode, "/nowhere cannot be opened" in done.stderr) == (REFUSED, True)


def test_a_dry_run_tells_of_a_rotation_that_is_pending_or_complete(files):
    left_after(files, "PATCH", "/device")
    before = files.device.snapshot()
    assert "is pending after step 1" in files.device.run("rotate", "--dry-run").stdout
    assert files.device.snapshot() == before
    assert files.device.run("resume").returncode == DONE
    assert "already complete" in files.device.run("rotate", "--dry-run").stdout


NEXT = "certs-next"


def dry_run(factory):
    """Ask what another rotation would do; no server is asked, and nothing is touched."""
    device = factory.device
    device.write_request(NEXT)
    before, requests = device.snapshot(), len(factory.gateway.requests) + len(factory.est.requests)
    done = device.run("rotate", "--dry-run")
    assert done.returncode == DONE, done.stderr
    assert device.snapshot() == before
    assert len(factory.gateway.requests) + len(factory.est.requests) == requests
    return done.stdout


def test_a_dry_run_drops_a_rotation_of_which_the_gateway_knows_nothing(token):
    left_after(token, "POST", "/simplereenroll")
    first, *lines = dry_run(token).splitlines()
    assert first == f"rotation {ID} is pending after step 0: it would be dropped first, with its new key"
    assert "        p11.tls_pkey_id: 01 -> 07" in lines


@pytest.mark.parametrize(
    ("method", "path", "step"), [("GET", "/config-device", 3), ("PATCH", "/config", 3), ("POST", "/events", 5)]
)
def test_a_dry_run_names_no_slots_before_a_rotation_that_would_be_finished_first(factory, method, path, step):
    left_after(factory, method, path)
    new = read_state(factory.device).new
    (line,) = dry_run(factory).splitlines()
    assert line == (
        f"rotation {ID} is pending after step {step} and would be finished first: key {new.key} and certificate "
        f"{new.certificate} are in use then. Then {NEXT} would start: run this again when that is done"
    )


def test_a_dry_run_goes_from_the_slots_that_a_rotation_switched_to(token):
    token.device.write_request(ID)
    assert token.device.run().returncode == SWITCHED
    first, *lines = dry_run(token).splitlines()
    assert first == f"rotation {ID} is in use: cleaning up after it would come first"
    assert "        p11.tls_pkey_id: 07 -> 01" in lines
    assert "        p11.tls_clientcert_id: 09 -> 03" in lines


def test_a_dry_run_tells_of_a_rotation_that_is_asked_for_only(files):
    files.device.write_request(ID)
    files.device.run(environment={"FAKETIME": "-400d", "LD_PRELOAD": FAKETIME})
    assert dry_run(files).startswith(f"rotation {ID} is requested but not started: this one would replace it\n")


@pytest.mark.parametrize("content", ["{]", None], ids=["broken", "fioconfig's"])
def test_a_dry_run_goes_no_further_than_to_what_is_not_known(files, content):
    folder = files.device.storage / "renew-client-cert"
    folder.mkdir(mode=0o700)
    if content is None:
        (files.device.storage / "cert-rotation.state").write_text("{}")
    else:
        journals.write_earlier(files.device.storage, content)
    (line,) = dry_run(files).splitlines()
    assert line.endswith(f" Then {NEXT} would start: run this again when that is done")
