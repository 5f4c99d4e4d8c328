"""Tokens as devices have them, and tokens that are not at hand: the program as a process, as fioconfig calls it."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulators.factory import running_factory
from tests.softhsm import MODULE

(_SPY,) = (str(path) for path in Path("/usr/lib").glob("*/pkcs11/pkcs11-spy.so"))
SWITCHED, PENDING, REFUSED = 123, 75, 78


@pytest.fixture
def factory(tmp_path):
    with running_factory(tmp_path / "device", "token", with_device_cas=True) as running:
        running.device.write_request("certs-1")
        yield running


@pytest.fixture
def removed(factory):
    """Take the token away; gives what puts it back."""
    here = factory.device.token.directory
    away = here.rename(factory.device.folder / "token-away")
    return lambda: away.rename(here)


def test_a_token_that_comes_late_is_waited_for_with_hsm_wait(factory, removed):
    put_back = removed
    with factory.device.start(environment={"HSM_WAIT": "50"}) as program:
        said = program.stderr.readline()
        assert "is not there yet: waiting for it, 50 s at most" in said
        put_back()
        _, errors = program.communicate(timeout=60)
    assert program.returncode == SWITCHED, errors
    assert factory.device.current_identity().public_key == factory.gateway.current


def test_an_absent_token_is_not_waited_for_when_fioconfig_calls(factory, removed):
    done = factory.device.run()
    assert done.returncode == PENDING, done.stderr
    assert "no token with the label" in done.stderr
    assert "waiting" not in done.stderr


@pytest.mark.parametrize("wait", ["soon", "-1", "nan", "inf"])
def test_a_wait_that_is_no_number_of_seconds_is_refused_before_anything_changes(factory, wait):
    before = factory.device.snapshot()
    done = factory.device.run(environment={"HSM_WAIT": wait})
    assert done.returncode == REFUSED
    assert f"HSM_WAIT in the environment is '{wait}'" in done.stderr
    assert factory.device.snapshot() == before


def test_three_rotations_behind_pkcs11_spy_log_in_once_each(factory):
    device = factory.device
    configuration = device.folder / "usr/lib/sota/conf.d/40-hsm.toml"
    configuration.write_text(configuration.read_text().replace(MODULE, _SPY))
    used = [device.current_identity().key]
    for number in range(3):
        log = device.folder / f"spy-{number}.log"
        device.write_request(f"certs-spy-{number}")
        done = device.run(environment={"PKCS11SPY": MODULE, "PKCS11SPY_OUTPUT": str(log)})
        assert done.returncode == SWITCHED, done.stderr
        identity = device.current_identity()
        assert identity.whole
        assert identity.public_key == factory.gateway.current
        used.append(identity.key)
        assert log.read_text(errors="replace").count(": C_Login\n") == 1
    assert used == ["01", "07", "01", "07"]


def test_an_openssl_that_takes_no_such_key_is_named_before_anything_is_kept(factory):
    device = factory.device
    before = device.token_objects()
    program = (
        "import ssl, sys; ssl.OPENSSL_VERSION = 'LibreSSL 4.0.0'; from handler.cli import main; sys.exit(main([]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=device.environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == REFUSED
    assert "needs OpenSSL 1.1.1 or newer, this is LibreSSL 4" in done.stderr
    assert "Traceback" not in done.stderr
    assert device.token_objects() == before
    assert factory.est.requests == factory.gateway.requests == []
