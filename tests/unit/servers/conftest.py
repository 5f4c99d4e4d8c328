"""The factory of these tests, and one server of it."""

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from tests.simulators.pki import FactoryPki

from .loopback import World, running


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    pki = FactoryPki()
    made = World(pki, ec.generate_private_key(ec.SECP256R1()), tmp_path_factory.mktemp("trust"))
    made.certificate = pki.device_certificate(made.key.public_key())
    made.ca_file.write_bytes(pki.ca_bundle_pem())
    return made


@pytest.fixture
def server(world):
    with running(world) as started:
        yield started
