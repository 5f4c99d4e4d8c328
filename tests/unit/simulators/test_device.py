"""The simulated device: whole, and as registration leaves it."""

import base64
import json
from email.utils import format_datetime

import pytest

from tests.simulators.client import Client
from tests.simulators.device import make_device
from tests.simulators.device_config import DEVICE_FILES, FACTORY_FILES, plaintexts
from tests.simulators.factory import running_factory


def test_device_of_a_factory_knows_the_way_to_its_servers(tmp_path):
    with running_factory(tmp_path / "device", delay=0.001, san=["device.example"]) as factory:
        to_gateway, to_est = factory.relays
        client = Client(factory.pki, certificate=factory.device.certificate)
        with factory.device.private_key() as key:
            client.key = key
        for relay, url in ((to_gateway, factory.device.sota()["tls"]["server"]), (to_est, factory.device.est_url)):
            assert url.startswith(relay.url)
        reply = client.ask(to_gateway, "GET", "/config-device")
        assert json.loads(reply.body) == factory.device.config_device
        since = format_datetime(factory.gateway.config_modified, usegmt=True)
        assert client.ask(to_gateway, "GET", "/config", headers={"If-Modified-Since": since}).status == 304
        assert client.reenrol(to_est, base64.b64encode(client.csr(san=["device.example"]))).status == 201


@pytest.fixture(params=["file", "token"])
def device(request, tmp_path, pki):
    return make_device(
        tmp_path / "device",
        pki,
        keys=request.param,
        gateway_url="https://gateway.example:8443",
        est_url="https://est.example:8443/.well-known/est",
    )


def test_device_is_whole_and_reads_its_configuration(device):
    identity = device.current_identity()
    assert identity.whole
    assert identity.certificate == device.certificate
    assert device.plaintexts() == plaintexts({**FACTORY_FILES, **DEVICE_FILES})
    assert device.encrypted_config() == device.config
    assert device.config.items() >= device.config_device.items()


def test_key_is_where_registration_leaves_it(device):
    if device.token is None:
        assert device.private_key_files() == [device.storage / "pkey.pem"]
        assert device.snapshot()["var/sota/pkey.pem"].mode == 0o600
        return
    found = [(each.object_class, each.id, each.label) for each in device.token_objects()]
    assert found == [("CERTIFICATE", "03", "client"), ("PRIVATE_KEY", "01", "tls"), ("PUBLIC_KEY", "01", "tls")]
    assert device.private_key_files() == []
    assert "pass" not in device.sota()["p11"]


def test_request_file_is_as_fioctl_writes_it(device):
    device.write_request("certs-1669058841")
    assert device.request_file.read_text() == (
        "ESTSERVER=https://est.example:8443/.well-known/est\n"
        "PKEYIDS=01,07\nCERTIDS=03,09\nROTATIONID=certs-1669058841\n"
    )
    device.write_request("certs-2", pkeyids=None, extra="x")
    assert device.request_file.read_text().splitlines()[1:] == ["CERTIDS=03,09", "ROTATIONID=certs-2", "EXTRA=x"]


def test_snapshot_shows_any_change_and_nothing_else(device):
    before = device.snapshot()
    assert device.snapshot() == before
    device.sota_toml.chmod(0o640)
    (device.storage / "left-over").write_text("x")
    after = device.snapshot()
    assert {name for name in after if after[name] != before.get(name)} == {"var/sota/sota.toml", "var/sota/left-over"}


def test_program_runs_in_the_environment_that_fioconfig_gives_it(device):
    assert device.environment().keys() >= {"CONFIG_FILE", "STORAGE_DIR", "SOTA_DIR", "FIOCONFIG_BIN", "PATH"}
    done = device.run("--version")
    assert (done.returncode, done.stdout.split()[0]) == (0, "renew-client-cert")
