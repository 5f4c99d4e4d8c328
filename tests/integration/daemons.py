"""The daemon as systemd runs it, and what systemd hears of it."""

import re
import socket
import threading
from contextlib import contextmanager

import pytest

from handler.exit_status import DONE, PENDING

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
    return bool(waits_for(systemd))


def waits_for(systemd):
    """Give what the daemon said that it waits for, with 12:34 in the place of a time of today or tomorrow."""
    said = [
        each.removeprefix("STATUS=") for each in systemd.said if re.search("attempt at|come back|waiting for", each)
    ]
    return [re.sub(r"\b(\d{4}-\d\d-\d\d )?\d\d:\d\d\b", "12:34", each) for each in said]


def works(systemd):
    return systemd.said.count(f"STATUS=rotation {ID}: working")
