"""Factories with one registered device, and what every test of a refusal compares."""

import threading
import time

import pytest

from handler.device.storage import FOLDER
from tests.simulators.factory import running_factory

REFUSED = 78


@pytest.fixture(params=["file", "token"])
def factory(request, tmp_path):
    """Run a factory whose device has its keys in files, then one with a token."""
    with running_factory(tmp_path / "device", request.param) as running:
        yield running


@pytest.fixture
def files(tmp_path):
    """Run a factory whose device has its keys in files."""
    with running_factory(tmp_path / "device", "file") as running:
        yield running


@pytest.fixture
def token(tmp_path):
    """Run a factory whose device has its keys in a token."""
    with running_factory(tmp_path / "device", "token") as running:
        yield running


def untouched(device):
    """Give what a refused request leaves as it is: everything but the journal, its marker and the history."""
    return {name: state for name, state in device.snapshot().items() if FOLDER not in name.split("/")}


@pytest.fixture
def refused():
    """Give a call of the program that has to be refused, and that gives the program's words.

    Nothing but the journal's folder may change, and nothing but events is sent.
    """

    def call(factory, *arguments, environment=None):
        before = untouched(factory.device)
        done = factory.device.run(*arguments, environment=environment)
        assert done.returncode == REFUSED, done.stdout + done.stderr
        assert done.stderr.startswith("renew-client-cert: refused: ")
        assert "Traceback" not in done.stderr
        assert done.stdout == ""
        assert untouched(factory.device) == before
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


def pytest_collection_modifyitems(items):
    """Run first what needs a process in which SoftHSM was not used before without p11-kit: its login fails there."""
    items.sort(key=lambda item: "aktualizr_by_default" not in item.name or "p11kit" not in item.name)
