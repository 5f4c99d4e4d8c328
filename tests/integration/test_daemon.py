"""The daemon as systemd runs it: what it waits for, what wakes it, when it ends, and what it holds meanwhile."""

import os
import re
import signal
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

from handler.daemon.daemon import TICK
from handler.device.lock import device_lock
from handler.exit_status import DONE, PENDING, REFUSED, SWITCHED
from handler.journal.pending import marker, read_pending
from tests import journal as journals
from tests.invariants import broken_invariants

from .daemons import ENROL, ID, QUICK, SLOW, cut_off, ended, left_pending, running, systemd, waits, waits_for, works

__all__ = ["systemd"]  # a fixture


def change_waiting(factory, **fields):
    """Change what the journal says about the wait."""
    content = journals.read(factory.device.storage)
    content["waiting"] |= fields
    journals.write(factory.device.storage, content)


def forget_what_the_server_asked(factory):
    """Leave a journal whose rotation waits for its back-off only."""
    change_waiting(factory, until=None)


# Finishing


def test_a_rotation_that_was_cut_off_is_finished_at_once_and_the_daemon_ends(factory, systemd, until):
    cut_off(factory, until)
    assert marker(factory.device.storage).exists()
    with running(factory, systemd, *SLOW) as daemon:
        ended(daemon)
    assert systemd.said[0] == "READY=1"
    assert f"STATUS=rotation {ID}: working" in systemd.said
    assert "STOPPING=1" in systemd.said
    assert broken_invariants(factory, ID, completed=True) == []
    assert read_pending(factory.device.storage) is None
    assert not marker(factory.device.storage).exists()


def test_with_nothing_to_do_it_says_so_and_ends(files):
    done = files.device.run("daemon", "-v")
    assert (done.returncode, done.stdout) == (DONE, "")
    assert done.stderr.splitlines()[-1] == "info: nothing is pending"
    assert "cannot watch" not in done.stderr


def test_what_fioconfig_left_to_be_tidied_up_is_tidied_up(files, systemd):
    files.device.write_request(ID)
    assert files.device.run().returncode == SWITCHED
    assert len(files.device.private_key_files()) == 2
    with running(files, systemd, *SLOW) as daemon:
        ended(daemon)
    assert broken_invariants(files, ID, completed=True) == []


def test_a_server_that_is_down_for_three_back_offs_is_asked_again(files, systemd, until):
    files.device.write_request(ID)
    # With Retry-After a call ends at once; what it asks for is taken out of the journal, which the back-off then rules.
    files.est.faults.add(*ENROL, times=4, status=503, headers={"Retry-After": "200"})
    assert files.device.run().returncode == PENDING
    with running(files, systemd, *QUICK) as daemon:
        for attempts in (1, 2, 3, 4):
            until(lambda attempts=attempts: read_pending(files.device.storage).waiting.attempts == attempts)
            forget_what_the_server_asked(files)
        ended(daemon)
    assert broken_invariants(files, ID, completed=True) == []
    keys = {each.body for each in files.est.requests if each.method == "POST"}
    assert len(keys) == 1  # the same CSR each time


def test_events_that_the_gateway_did_not_take_are_delivered(files, systemd):
    files.device.write_request(ID)
    files.gateway.faults.add("POST", "/events", times=2, status=403, work=False)
    files.device.run()
    with running(files, systemd, *QUICK) as daemon:
        ended(daemon)
    assert read_pending(files.device.storage) is None


def test_a_rotation_that_was_refused_is_left_to_people_and_does_not_start_the_daemon_again(files, systemd):
    files.device.write_request(ID)
    files.gateway.faults.add("PATCH", "/config", times=None, status=400)
    assert files.device.run().returncode == REFUSED
    asked = len(files.gateway.requests)
    with running(files, systemd, *QUICK) as daemon:
        ended(daemon)
    assert [each for each in files.gateway.requests[asked:] if each.path != "/events"] == []
    assert not marker(files.device.storage).exists()
    assert read_pending(files.device.storage).refused


def test_a_marker_that_a_cut_left_behind_is_removed(files, systemd):
    marker(files.device.storage).parent.mkdir()
    marker(files.device.storage).touch()
    with running(files, systemd) as daemon:
        ended(daemon)
    assert not marker(files.device.storage).exists()
    assert files.gateway.requests == files.est.requests == []


# Waiting


def test_a_server_that_asks_to_come_back_is_not_asked_before(files, systemd, until):
    fault = left_pending(files)
    with running(files, systemd, *QUICK) as daemon:
        until(lambda: waits(systemd))
        daemon.terminate()
        ended(daemon)
    assert fault.seen == 1


def asked_until(factory):
    """Give the time that a server asked for, as the daemon is to show it."""
    text = read_pending(factory.device.storage).waiting.until
    then, now = datetime.fromisoformat(text).astimezone(UTC), datetime.now(UTC)
    return f"{then:%H:%M} UTC" if then.date() == now.date() else f"{then:%Y-%m-%d %H:%M} UTC"


@pytest.mark.parametrize(
    ("seconds", "fault"),
    [
        (3000, {}),
        (80_000, {}),
        (3000, {"status": 202, "body": b""}),
    ],
    ids=["busy", "another day, or nearly", "an operator approves"],
)
def test_it_says_when_the_est_server_asks_to_come_back(files, systemd, until, seconds, fault):
    left_pending(files, headers={"Retry-After": str(seconds)}, **fault)
    with running(files, systemd, *SLOW):
        until(lambda: waits(systemd))
    said = [each for each in systemd.said if "come back" in each]
    assert said == [f"STATUS=EST server asks to come back at {asked_until(files)}"]


def test_it_says_when_the_device_gateway_asks_to_come_back(files, systemd, until):
    files.device.write_request(ID)
    files.gateway.faults.add("PATCH", "/device", status=503, headers={"Retry-After": "3000"})
    assert files.device.run().returncode == PENDING
    with running(files, systemd, *SLOW):
        until(lambda: waits(systemd))
    assert f"STATUS=device gateway asks to come back at {asked_until(files)}" in systemd.said


def test_it_says_that_it_waits_for_the_token_and_when_it_looks_next(token, systemd, until):
    token.device.write_request(ID)
    with token.device.token.away():
        assert token.device.run().returncode == PENDING
        with running(token, systemd, *SLOW):
            until(lambda: waits(systemd))
    assert waits_for(systemd) == [f"waiting for token {token.device.token.label}, next attempt at 12:34 UTC"]


def test_it_says_that_it_waits_for_the_network(files, systemd, until):
    files.device.write_request(ID, estserver="https://est.invalid/.well-known/est")
    assert files.device.run().returncode == PENDING
    with running(files, systemd, *SLOW):
        until(lambda: waits(systemd))
    assert waits_for(systemd) == ["waiting for the network, next attempt at 12:34 UTC"]


def test_it_says_why_it_tries_again_where_there_is_nothing_to_wait_for(files, systemd, until):
    left_pending(files)
    forget_what_the_server_asked(files)
    change_waiting(files, kind=None, reason="the connection broke off")
    with running(files, systemd, *SLOW):
        until(lambda: waits(systemd))
    assert waits_for(systemd) == ["next attempt at 12:34 UTC: the connection broke off"]


def test_while_it_waits_it_holds_neither_lock_nor_connection_nor_token_and_little_memory(factory, systemd, until):
    left_pending(factory)
    with running(factory, systemd) as daemon:
        until(lambda: waits(systemd))
        with device_lock(factory.device.storage, 0.0):
            pass
        process = Path("/proc", str(daemon.pid))
        maps, status = (process / "maps").read_text(), (process / "status").read_text()
        assert "softhsm" not in maps
        assert "libssl" not in maps
        resident = int(re.search(r"VmRSS:\s+(\d+) kB", status)[1])
        assert resident < 20 * 1024
        # The message to systemd that it waits went through a socket, which is closed then.
        until(lambda: not any(str(each.readlink()).startswith("socket:") for each in (process / "fd").iterdir()))
        assert subprocess.run(["pgrep", "-P", str(daemon.pid)], check=False, capture_output=True).stdout == b""


def test_a_change_of_the_journal_wakes_it_at_once(files, systemd, until):
    left_pending(files)
    with running(files, systemd, *SLOW) as daemon:
        until(lambda: waits(systemd))
        assert files.device.run("resume").returncode == DONE  # a person does not wait
        ended(daemon)
    assert broken_invariants(files, ID, completed=True) == []


def test_a_process_that_rotates_already_is_waited_for(files, systemd, until):
    cut_off(files, until)
    with device_lock(files.device.storage, 0.0), running(files, systemd, *SLOW) as daemon:
        until(lambda: "STATUS=waiting: another process is rotating" in systemd.said)
        assert read_pending(files.device.storage) is not None
        daemon.terminate()
        ended(daemon)
    assert marker(files.device.storage).exists()


def test_the_watchdog_hears_of_it_while_it_waits(files, systemd, until):
    left_pending(files)
    with running(files, systemd, WATCHDOG_USEC="300000"):
        until(lambda: systemd.said.count("WATCHDOG=1") > 3)


def children(process):
    return [int(each) for each in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def left_to_hang(factory):
    """Leave a rotation whose next call waits for an answer that does not come."""
    left_pending(factory)
    forget_what_the_server_asked(factory)
    return factory.est.faults.add(*ENROL, hang=20.0)


def test_a_child_that_hangs_feeds_no_watchdog_and_is_killed_and_the_rotation_goes_on(files, systemd, until):
    fault = left_to_hang(files)
    with running(files, systemd, *QUICK, WATCHDOG_USEC="5000000") as daemon:
        until(lambda: fault.used)
        (child,) = children(daemon)
        os.kill(child, signal.SIGSTOP)
        until(lambda: "State:\tT" in Path(f"/proc/{child}/status").read_text())
        fed = systemd.said.count("WATCHDOG=1")
        until(lambda: child not in children(daemon))
        # What it did before it was stopped, and the end of it.
        assert systemd.said.count("WATCHDOG=1") - fed <= 3
        errors = ended(daemon)
    assert f"the rotation hangs: killing process {child}" in errors
    assert broken_invariants(files, ID, completed=True) == []


def test_a_child_that_was_killed_is_followed_by_another_at_once(files, systemd, until):
    fault = left_to_hang(files)
    change_waiting(files, attempts=0)
    with running(files, systemd, *SLOW) as daemon:
        until(lambda: fault.used)
        os.kill(children(daemon)[0], signal.SIGKILL)
        ended(daemon)
    assert broken_invariants(files, ID, completed=True) == []


def test_a_child_that_is_killed_again_and_again_is_followed_by_a_back_off(files, systemd, until):
    left_pending(files)
    change_waiting(files, until=None, attempts=0)
    fault = files.est.faults.add(*ENROL, times=None, hang=20.0)
    with running(files, systemd, *SLOW) as daemon:
        for times in (1, 2):
            until(lambda times=times: fault.used == times)
            os.kill(children(daemon)[0], signal.SIGKILL)
        until(lambda: waits(systemd))
        assert children(daemon) == []
    assert fault.used == 2


def test_it_is_ready_before_it_waits_for_the_lock(files, systemd, until):
    marker(files.device.storage).parent.mkdir()
    marker(files.device.storage).touch()
    with device_lock(files.device.storage, 0.0), running(files, systemd) as daemon:
        until(lambda: "STATUS=waiting: another process is rotating" in systemd.said)
        assert systemd.said[0] == "READY=1"
        daemon.terminate()
        ended(daemon)


def test_a_child_that_does_not_end_has_systemd_wait_no_longer_than_two_seconds(files, systemd, until):
    fault = left_to_hang(files)
    with running(files, systemd, *QUICK) as daemon:
        until(lambda: fault.used)
        (child,) = children(daemon)
        os.kill(child, signal.SIGSTOP)  # as one that is in a call of a token's module
        daemon.terminate()
        daemon.wait(timeout=2.0)
        ended(daemon)
    (extended,) = [each for each in systemd.said if each.startswith("EXTEND_TIMEOUT_USEC=")]
    assert 1_500_000 < int(extended.partition("=")[2]) <= 3_000_000
    assert not Path(f"/proc/{child}").exists()
    assert read_pending(files.device.storage).rotation_id == ID


def test_its_child_waits_for_no_token_and_holds_no_lock_meanwhile(token, systemd, until):
    token.device.write_request(ID)
    with token.device.token.away():
        assert token.device.run().returncode == PENDING
        with running(token, systemd, *SLOW, HSM_WAIT="600") as daemon:
            until(lambda: waits(systemd))
            assert children(daemon) == []
            with device_lock(token.device.storage, 0.0):
                pass


def test_a_journal_that_is_written_in_place_is_noticed_at_once(files, systemd, until):
    left_pending(files)
    with running(files, systemd, *SLOW) as daemon:
        until(lambda: waits(systemd))
        forget_what_the_server_asked(files)
        change_waiting(files, attempts=0)
        until(lambda: works(systemd), TICK / 3)
        ended(daemon)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_the_middle_of_a_rotation_within_two_seconds(files, systemd, until, number):
    left_pending(files)
    forget_what_the_server_asked(files)
    fault = files.est.faults.add(*ENROL, hang=20.0)
    with running(files, systemd, *QUICK) as daemon:
        until(lambda: fault.used)
        daemon.send_signal(number)
        daemon.wait(timeout=2.0)
        errors = ended(daemon)
    assert "interrupted" in errors
    assert "STATUS=stopping" in systemd.said
    assert read_pending(files.device.storage).rotation_id == ID
    assert files.device.run("resume").returncode == DONE
    assert broken_invariants(files, ID, completed=True) == []


def test_a_token_that_comes_late_is_noticed(token, systemd, until):
    token.device.write_request(ID)
    away = token.device.token.directory.rename(token.device.folder / "away")
    assert token.device.run().returncode == PENDING
    with running(token, systemd, *QUICK) as daemon:
        until(lambda: waits(systemd))
        away.rename(token.device.token.directory)
        ended(daemon)
    assert broken_invariants(token, ID, completed=True) == []


def test_a_daemon_that_is_started_looks_for_the_token_at_once(token, systemd):
    token.device.write_request(ID)
    with token.device.token.away():
        assert token.device.run().returncode == PENDING
    change_waiting(token, attempts=8)
    with running(token, systemd, *SLOW) as daemon:  # as the udev rule restarts it
        ended(daemon)
    assert broken_invariants(token, ID, completed=True) == []
