"""What fioconfig's own code does to a device and its gateway, step by step."""

import json

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from handler.crypto import encrypted_values as encrypted_config
from tests import softhsm
from tests.simulators.pki import certificate_pem, key_pem, spki_pem

ID = "certs-1669058841"


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
        from hsm.slots import read_id  # noqa: PLC0415
        from hsm.token import Token  # noqa: PLC0415

        fixture = self.device.token
        token = Token(fixture.module, fixture.label, fixture.pin)
        try:
            old, new = (load_private_key(token, read_id(each)) for each in ("01", "07"))
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
