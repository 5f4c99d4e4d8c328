"""`rotate --if-due`: a rotation is begun when it is due, and not before."""

import re
from pathlib import Path

import pytest

from handler.exit_status import DONE, PENDING, REFUSED, SWITCHED
from tests.invariants import broken_invariants

from .left_behind import ID, left_after

(FAKETIME,) = map(str, Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))


def test_a_rotation_is_not_begun_where_it_is_not_due(factory):
    before = factory.device.snapshot()
    done = if_due(factory, "+100d")
    assert done.stdout.startswith("nothing to do: 64% of the certificate's lifetime is left (until ")
    assert factory.device.snapshot() == before
    assert factory.est.requests == factory.gateway.requests == []


def test_a_rotation_is_begun_and_done_where_it_is_due(factory):
    identity = factory.device.current_identity()
    done = if_due(factory, "+300d")
    assert re.search(r"^rotation certs-[0-9]+-[0-9a-f]{6} complete$", done.stdout, re.MULTILINE)
    assert factory.device.current_identity().public_key == factory.gateway.current != identity.public_key
    assert factory.gateway.events[-1]["event"]["success"]


def if_due(factory, clock):
    """Ask for a rotation where less than a third is left of a certificate that began a month ago, for a year."""
    environment = {"FAKETIME": clock, "LD_PRELOAD": FAKETIME}
    done = factory.device.run(
        "rotate", "--if-due", "0.33", "--est-server", factory.device.est_url, environment=environment
    )
    assert done.returncode == DONE, done.stderr
    return done


def test_a_rotation_that_is_due_gets_an_id_of_its_own(files):
    files.device.write_request("certs-asked-long-ago")
    assert files.device.run("rotate", "--if-due", "0.999999999").returncode == DONE
    assert {each["event"]["correlationId"] for each in files.gateway.events} != {"certs-asked-long-ago"}
    assert len(files.gateway.event_names()) == 7


def test_what_fioconfig_asks_for_is_not_done_again_after_a_rotation_by_hand(files):
    """At each boot it calls with the id of its file, which is not the last one any more."""
    files.device.write_request(ID)
    assert files.device.run().returncode == SWITCHED
    assert files.device.run("rotate", "--rotation-id", "certs-by-hand").returncode == DONE
    identity, asked = files.device.current_identity(), len(files.gateway.requests)
    done = files.device.run()
    assert (done.returncode, done.stdout) == (DONE, f"nothing to do: rotation {ID} is already complete\n")
    assert (files.device.current_identity(), len(files.gateway.requests)) == (identity, asked)


def test_a_rotation_that_is_pending_is_left_to_the_daemon(files):
    left_after(files, "PATCH", "/device")
    asked = len(files.gateway.requests)
    done = files.device.run("rotate", "--if-due", "0.999999999")
    assert done.returncode == DONE
    assert f"{ID} is already pending" in done.stdout
    assert len(files.gateway.requests) == asked


def test_one_that_was_refused_is_tried_again_where_nobody_else_would_look(files):
    left_after(files, "PATCH", "/config", status=403)
    done = files.device.run("resume", "--unattended")
    assert (done.returncode, "was refused" in done.stdout) == (DONE, True)
    before = files.device.snapshot()
    done = files.device.run("rotate", "--dry-run", "--if-due=0.33", f"--est-server={files.device.est_url}")
    assert (done.returncode, "would be retried" in done.stdout) == (DONE, True)
    assert files.device.snapshot() == before
    assert files.device.run("rotate", "--if-due=0.33", f"--est-server={files.device.est_url}").returncode == DONE
    assert files.gateway.completed(ID)[-1]["event"]["success"]
    assert broken_invariants(files, ID, completed=True) == []


def test_what_is_wrong_with_the_request_is_said_before_it_is_due(files):
    for arguments in ([], ["--est-server=http://plain.example"]):
        assert files.device.run("rotate", "--if-due=0.33", *arguments).returncode == REFUSED


def test_the_same_by_hand_again_goes_on_with_the_one_that_is_pending(files):
    files.gateway.faults.add("PATCH", "/device", times=None, status=503, headers={"Retry-After": "3000"})
    by_hand = ["rotate", f"--est-server={files.device.est_url}"]
    assert [files.device.run(*by_hand).returncode for _ in range(2)] == [PENDING, PENDING]
    files.gateway.faults.clear()
    assert files.device.run(*by_hand).returncode == DONE
    assert len(files.est.csrs) == 1


@pytest.mark.parametrize("share", ["0", "1", "a third", "-0.5", "nan"])
def test_a_share_that_is_none_is_wrong_usage(files, share):
    done = files.device.run("rotate", f"--if-due={share}")
    assert done.returncode == 64
    assert "--if-due" in done.stderr
