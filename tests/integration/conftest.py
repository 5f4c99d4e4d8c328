"""Factories with one registered device, and what every test of a refusal compares."""

import contextlib
import threading
import time

import pytest

from tests.simulators.factory import running_factory

REFUSED = 78


def pytest_configure(config):
    config.addinivalue_line("markers", "requested(rotation_id): the device's request file asks for that rotation")


@contextlib.contextmanager
def registered(request, folder, keys):
    """Run a factory whose device asks for the rotation that the test is marked with, if any."""
    with running_factory(folder / "device", keys) as running:
        if marker := request.node.get_closest_marker("requested"):
            running.device.write_request(*marker.args)
        yield running


@pytest.fixture(params=["file", "token"])
def factory(request, tmp_path):
    """Run a factory with a device whose keys are in files, then one with a token."""
    with registered(request, tmp_path, request.param) as running:
        yield running


@pytest.fixture
def files(request, tmp_path):
    """Run a factory whose device has its keys in files."""
    with registered(request, tmp_path, "file") as running:
        yield running


@pytest.fixture
def token(request, tmp_path):
    """Run a factory whose device has its keys in a token."""
    with registered(request, tmp_path, "token") as running:
        yield running


@pytest.fixture
def refused():
    """Give a call of the program that has to be refused, and that gives the program's words.

    Nothing but the journal's folder may change, and nothing but events is sent.
    """

    def call(factory, *arguments, environment=None):
        before = factory.device.untouched()
        done = factory.device.run(*arguments, environment=environment)
        assert done.returncode == REFUSED, done.stdout + done.stderr
        assert done.stderr.startswith("renew-client-cert: refused: ")
        assert "Traceback" not in done.stderr
        assert done.stdout == ""
        assert factory.device.untouched() == before
        assert factory.est.requests == []
        assert {each.path for each in factory.gateway.requests} <= {"/events"}
        return done.stderr

    return call


@pytest.fixture
def until():
    """Give a function that waits until its condition holds, at most so many seconds."""

    def wait(condition, seconds=20.0):
        end, pause = time.monotonic() + seconds, threading.Event()
        while not condition():
            assert time.monotonic() < end, "it does not happen"
            pause.wait(0.01)

    return wait
