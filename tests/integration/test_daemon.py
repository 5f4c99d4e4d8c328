"""The daemon as systemd runs it: what it waits for, what wakes it, when it ends, and what it holds meanwhile."""

import re
import signal
import socket
import subprocess
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

from handler.exit_status import DONE, PENDING, REFUSED, SWITCHED
from handler.pending import marker, read_pending
from handler.storage import DeviceLock
from tests.invariants import broken_invariants

ID = "certs-daemon"
QUICK = ("--first-delay", "0.1", "--longest-delay", "0.3")
SLOW = ("--first-delay", "600", "--longest-delay", "3600")
ENROL = ("POST", "/simplereenroll")


class Systemd:
    """What the daemon tells systemd."""

    def __init__(self, folder):
        self.said = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.address = str(folder / "notify")
        self._socket.bind(self.address)
        self._thread = threading.Thread(target=self._hear, daemon=True)
        self._thread.start()

    def _hear(self):
        while message := self._socket.recv(4096):
            self.said += message.decode().splitlines()

    def close(self):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
            end.sendto(b"", self.address)
        self._thread.join()
        self._socket.close()


@pytest.fixture
def systemd(tmp_path):
    service = Systemd(tmp_path)
    yield service
    service.close()


@contextmanager
def running(factory, systemd, *arguments, **environment):
    """Run the daemon; it is stopped at the end, if it has not ended by itself."""
    environment = {"NOTIFY_SOCKET": systemd.address, **environment}
    with factory.device.start("daemon", *arguments, environment=environment) as daemon:
        try:
            yield daemon
        finally:
            daemon.terminate()


def ended(daemon):
    _, errors = daemon.communicate(timeout=30)
    assert "Traceback" not in errors
    assert daemon.returncode == DONE, errors
    return errors


def left_pending(factory, **fault):
    """Leave a rotation that the EST server postponed: called by fioconfig, ended with 75."""
    factory.device.write_request(ID)
    fault = factory.est.faults.add(*ENROL, times=1, **({"status": 503, "headers": {"Retry-After": "3000"}} | fault))
    done = factory.device.run()
    assert done.returncode == PENDING, done.stderr
    return fault


def cut_off(factory, until):
    """Leave a rotation that was killed in the middle."""
    factory.device.write_request(ID)
    fault = factory.gateway.faults.add("PATCH", "/config", hang=20.0)
    with factory.device.start() as program:
        until(lambda: fault.used)
        program.kill()


def waits(systemd):
    return any(each.startswith("STATUS=next attempt at") for each in systemd.said)


def forget_what_the_server_asked(factory):
    """Leave a journal whose rotation waits for its back-off only."""
    path = factory.device.storage / "renew-client-cert/rotation.json"
    path.write_text(re.sub(r'"until": "[^"]*"', '"until": null', path.read_text()))


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
        status = next(each for each in systemd.said if "next attempt" in each)
        assert re.fullmatch(r"STATUS=next attempt at \d\d:\d\d:\d\d: .*HTTP 503.*", status)
        daemon.terminate()
        ended(daemon)
    assert fault.seen == 1


def test_while_it_waits_it_holds_neither_lock_nor_connection_nor_token_and_little_memory(factory, systemd, until):
    left_pending(factory)
    with running(factory, systemd) as daemon:
        until(lambda: waits(systemd))
        with DeviceLock(factory.device.storage).acquire(0.0):
            pass
        process = Path("/proc", str(daemon.pid))
        maps, status = (process / "maps").read_text(), (process / "status").read_text()
        assert "softhsm" not in maps
        assert "libssl" not in maps
        resident = int(re.search(r"VmRSS:\s+(\d+) kB", status)[1])
        assert resident < 20 * 1024
        targets = [str(each.readlink()) for each in (process / "fd").iterdir()]
        # A pair of sockets for signals, and nothing else that is one.
        assert len([target for target in targets if target.startswith("socket:")]) == 2
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
    with DeviceLock(files.device.storage).acquire(0.0), running(files, systemd, *SLOW) as daemon:
        until(lambda: "STATUS=another process rotates" in systemd.said)
        assert read_pending(files.device.storage) is not None
        daemon.terminate()
        ended(daemon)
    assert marker(files.device.storage).exists()


def test_the_watchdog_hears_of_it_while_it_waits(files, systemd, until):
    left_pending(files)
    with running(files, systemd, WATCHDOG_USEC="300000"):
        until(lambda: systemd.said.count("WATCHDOG=1") > 3)


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
        until(lambda: any("no token with the label" in each for each in systemd.said))
        away.rename(token.device.token.directory)
        ended(daemon)
    assert broken_invariants(token, ID, completed=True) == []
