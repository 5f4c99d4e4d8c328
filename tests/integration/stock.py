"""A rotation that fioconfig's own code left at any of its steps is finished, in both key modes."""

import json

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from handler.crypto import encrypted_values as encrypted_config
from tests import softhsm
from tests.crash.invariants import broken_invariants
from tests.simulators.factory import running_factory
from tests.simulators.pki import certificate_pem, key_pem, spki_pem

from .in_process import call

ID = "certs-1669058841"
DONE, SWITCHED = 0, 123


class Stock:
    """Does to a device and its gateway what fioconfig does, up to a step."""

    def __init__(self, factory):
        self.factory, self.device = factory, factory.device
        self.state = {
            "EstServer": self.device.est_url,
            "RotationId": ID,
            "StepIdx": 0,
            "PkeySlotIds": ["01", "07"],
            "CertSlotIds": ["03", "09"],
            "NewKey": "",
            "NewCert": "",
            "FullConfigEncrypted": "",
            "DeviceConfigUpdated": False,
            "Finalized": False,
        }
        self.key = ec.generate_private_key(ec.SECP256R1())

    def run(self, steps):
        """Do so many steps and leave the state file."""
        for step in (self.enrol, self.lock, self.local, self.server, self.finalize)[:steps]:
            step()
            self.state["StepIdx"] += 1
        self.save()

    def save(self):
        (self.device.storage / "cert-rotation.state").write_text(json.dumps(self.state, separators=(",", ":")))

    def enrol(self):
        public = self.key.public_key()
        if self.device.token:
            public = softhsm.add_key_pair(self.device.token, 7)
        (name,) = self.device.certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
        certificate = self.factory.pki.device_certificate(public, device=name.value)
        self.public = public
        if self.device.token:
            softhsm.add_certificate(self.device.token, 9, certificate)
            self.state |= {"NewKey": "07", "NewCert": "09"}
        else:
            self.state |= {"NewKey": key_pem(self.key).decode(), "NewCert": certificate_pem(certificate).decode()}

    def lock(self):
        self.factory.gateway.next_pubkey = spki_pem(self.public)

    def moved(self, config):
        with self.device.private_key() as old:
            if not self.device.token:
                return encrypted_config.reencrypt(config, old, self.key)[0]
        from hsm.keys import load_private_key  # noqa: PLC0415
        from hsm.slots import ObjectId  # noqa: PLC0415
        from hsm.token import Token  # noqa: PLC0415

        fixture = self.device.token
        token = Token(fixture.module, fixture.label, fixture.pin)
        try:
            old, new = (load_private_key(token, ObjectId(number)) for number in (1, 7))
            return encrypted_config.reencrypt(config, old, new)[0]
        finally:
            token.close()

    def local(self):
        self.state["FullConfigEncrypted"] = json.dumps(self.moved(self.device.encrypted_config()))

    def server(self):
        self.factory.gateway.config_device = self.moved(self.factory.gateway.config_device)
        self.state["DeviceConfigUpdated"] = True

    def switch(self):
        """Point sota.toml at the new identity, as the first half of the last step does."""
        text = self.device.sota_toml.read_text()
        if self.device.token:
            text = text.replace('pkey_id = "01"', 'pkey_id = "07"').replace(
                'clientcert_id = "03"', 'clientcert_id = "09"'
            )
        else:
            storage = self.device.storage
            for name, key in (("pkey", "NewKey"), ("client", "NewCert")):
                (storage / f"{name}.1887078864.pem").write_text(self.state[key])
                text = text.replace(f"{storage}/{name}.pem", f"{storage}/{name}.1887078864.pem")
        self.device.sota_toml.write_text(text)

    def finalize(self):
        self.switch()
        self.device.config_encrypted.write_text(self.state["FullConfigEncrypted"])
        self.state["Finalized"] = True


@pytest.fixture(params=["file", "token"])
def stock(request, tmp_path):
    with running_factory(tmp_path / "device", request.param) as factory:
        factory.device.write_request(ID)
        yield Stock(factory)


def finished(stock):
    """Finish what was left; the call after the one that switched tidies up."""
    assert call(stock.device).status in (SWITCHED, DONE)
    assert call(stock.device).status == DONE
    assert not (stock.device.storage / "cert-rotation.state").exists()


@pytest.mark.parametrize("steps", range(6))
def test_a_rotation_that_fioconfig_left_is_finished(stock, steps):
    plaintexts = stock.device.plaintexts()
    stock.run(steps)
    finished(stock)
    identity = stock.device.current_identity()
    assert identity.whole
    assert identity.public_key == stock.factory.gateway.current
    assert stock.device.plaintexts() == plaintexts
    with stock.device.private_key() as key:
        assert stock.factory.gateway.files_readable_with(key)
    assert [each["event"]["success"] for each in stock.factory.gateway.completed(ID)] == [True]
    if steps:
        assert identity.public_key == spki_pem(stock.public)
        assert stock.factory.est.csrs == []
    else:
        assert broken_invariants(stock.factory, ID, completed=True) == []


def test_one_that_was_cut_off_between_sota_toml_and_config_encrypted_is_made_whole_offline(stock):
    plaintexts = stock.device.plaintexts()
    stock.run(4)
    stock.switch()
    assert call(stock.device, "offline").status == DONE
    assert stock.device.plaintexts() == plaintexts
    finished(stock)
    assert stock.device.plaintexts() == plaintexts


def test_a_state_that_cannot_be_read_is_in_nobodys_way(stock):
    (stock.device.storage / "cert-rotation.state").write_text('{"RotationId":')
    finished(stock)
    assert broken_invariants(stock.factory, ID, completed=True) == []


def test_no_private_key_stays_in_a_json_file(stock):
    stock.run(1)
    call(stock.device)
    left = [path.name for path in stock.device.private_key_files() if path.suffix != ".pem"]
    assert left == []


def test_the_key_that_fioconfig_made_is_kept_in_a_file_of_its_own(tmp_path):
    with running_factory(tmp_path / "device", "file") as factory:
        factory.device.write_request(ID)
        stock = Stock(factory)
        stock.run(2)
        finished(stock)
        path = factory.device.current_identity().key
        loaded = serialization.load_pem_private_key((factory.device.storage / path).read_bytes(), None)
        assert loaded.private_numbers() == stock.key.private_numbers()
        assert (factory.device.storage / path).stat().st_mode & 0o777 == 0o600
