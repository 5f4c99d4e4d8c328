"""A slow token: how often it is called, and what it is asked only once."""

import subprocess
import sys

import pytest
from pkcs11 import Attribute, ObjectClass

from handler.exit_status import DONE, REFUSED, SWITCHED, WARNINGS
from tests.modules import SlowModule, Speed, StrictToken
from tests.simulators.device import REPOSITORY
from tests.simulators.device_config import DEVICE_FILES, FACTORY_FILES, PlainFile
from tests.simulators.factory import running_factory
from tests.softhsm import opened

PLAIN = {"note": PlainFile(b"plain", unencrypted=True)}
SECRETS = {f"secret-{number}": PlainFile(b"value %d" % number) for number in range(9)}
CONFIGURATIONS = {
    "as usual": (FACTORY_FILES, DEVICE_FILES),
    "nothing encrypted": (PLAIN, PLAIN),
    "on the server only": (PLAIN, SECRETS),
    "of the factory only": (SECRETS, PLAIN),
    "nine of each": (SECRETS, SECRETS),
}
ID = "certs-slow"
DATA_OBJECTS = 100
"""An operation is C_GenerateKeyPair, C_DeriveKey, or C_Sign with an output buffer."""


@pytest.fixture
def factory(tmp_path):
    with running_factory(tmp_path / "device", "token") as running:
        yield running


def encrypted(config):
    """Count the ciphertexts: those of config.encrypted and those of the device's own files on the server."""
    return sum(bool(entry.get("Value")) and not entry.get("Unencrypted") for entry in config.values())


@pytest.mark.parametrize("kind", CONFIGURATIONS)
def test_a_rotation_asks_the_token_for_little_the_second_one_too(tmp_path, kind):
    config, config_device = CONFIGURATIONS[kind]
    with running_factory(tmp_path / "device", "token", config=config, config_device=config_device) as factory:
        device, slow = factory.device, SlowModule(factory.device, tmp_path)
        for number in range(2):
            values = encrypted(device.encrypted_config()) + encrypted(factory.gateway.config_device or {})
            device.write_request(f"{ID}-{number}")
            done = device.run(environment=slow.environment())
            assert done.returncode == SWITCHED, done.stderr
            counted = slow.counted
            assert counted.total <= 110 + 6 * values, counted.calls
            assert counted.operations <= 9 + values
            assert counted.calls["C_SignInit"] == 6
            assert counted.calls["C_Sign"] == 12  # each asks for the size first
            assert counted.calls["C_Login"] == counted.calls["C_Initialize"] == counted.calls["C_GenerateKeyPair"] == 1
            assert factory.gateway.connections + factory.est.connections == 5 * (number + 1)


def test_commands_that_only_look_ask_the_token_for_little(factory, tmp_path):
    device, slow = factory.device, SlowModule(factory.device, tmp_path)
    others = {Attribute.CLASS: ObjectClass.DATA, Attribute.TOKEN: True, Attribute.LABEL: "edgelock"}
    with opened(device.token) as session:
        for number in range(DATA_OBJECTS):
            session.create_object({**others, Attribute.VALUE: bytes([number])})
    device.write_request(ID)
    assert device.run(environment=slow.environment()).returncode == SWITCHED
    values = encrypted(device.encrypted_config()) + encrypted(factory.gateway.config_device or {})
    slots = 30 + 4 * (6 + DATA_OBJECTS)
    limits = {"status": 60, "slots": slots, "check": 60 + 6 * values + 4 * DATA_OBJECTS}
    for command, limit in limits.items():
        done = device.run(command, environment=slow.environment())
        assert done.returncode in (DONE, WARNINGS), done.stdout + done.stderr
        assert slow.counted.total <= limit, (command, slow.counted)


def test_a_token_that_wants_class_and_curve_in_the_private_template_gets_them_after_its_refusal(factory, tmp_path):
    device = factory.device
    strict = StrictToken(device, tmp_path)
    slow = SlowModule(device, tmp_path)
    device.write_request(ID)
    done = device.run(environment=slow.environment() | strict.environment())
    assert done.returncode == SWITCHED, done.stderr
    assert slow.counted.calls["C_GenerateKeyPair"] == 2
    assert device.current_identity().public_key == factory.gateway.current


def test_a_token_that_refuses_both_templates_is_refused_with_its_words(factory, tmp_path):
    device = factory.device
    strict = StrictToken(device, tmp_path)
    slow = SlowModule(device, tmp_path)
    before = device.token_objects()
    device.write_request(ID)
    done = device.run(environment=slow.environment() | strict.environment(always=True))
    assert done.returncode == REFUSED, done.stderr
    assert "could not generate key 07" in done.stderr
    assert "TemplateInconsistent" in done.stderr
    assert slow.counted.calls["C_GenerateKeyPair"] == 2
    assert device.token_objects() == before


_CALL = (
    "import logging, sys; from pathlib import Path\n"
    "logging.basicConfig(level=logging.INFO)\n"
    "from tests.integration.in_process import LIMITS, call; from tests.simulators.device import Device\n"
    "outcome = call(Device(Path(sys.argv[1]), None, None, {}, None, ''), limits=LIMITS._replace(total=5.0))\n"
    "print(outcome.said); sys.exit(outcome.status)\n"
)


def test_a_token_that_takes_longer_than_the_network_may_still_rotates(tmp_path):
    """Its operations take nine seconds here, and the network has five for all that it does."""
    with running_factory(tmp_path / "device", "token", config=PLAIN, config_device=PLAIN) as factory:
        device, slow = factory.device, SlowModule(factory.device, tmp_path, Speed(operation=1100.0))
        device.write_request(ID)
        command = [sys.executable, "-c", _CALL, device.folder]
        environment = device.environment() | slow.environment()
        done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == SWITCHED, done.stdout + done.stderr
        assert "waiting for it each time" in done.stderr
        assert f"Waiting for token {device.token.label!r} to sign (1 s)." in done.stderr
        assert device.current_identity().public_key == factory.gateway.current
        assert slow.counted.operations >= 8
