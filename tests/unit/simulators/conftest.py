"""The simulated servers, and a client that they know."""

import pytest

from tests.simulators.client import Client
from tests.simulators.est_server import EstServer, EstState
from tests.simulators.gateway import Gateway, GatewayState
from tests.simulators.pki import FactoryPki


@pytest.fixture(scope="module")
def pki():
    return FactoryPki()


@pytest.fixture
def client(pki):
    return Client(pki)


@pytest.fixture
def est(pki):
    with EstServer(EstState(pki)) as server:
        yield server


@pytest.fixture
def gateway(pki, client):
    state = GatewayState(pki)
    state.register(client.certificate)
    with Gateway(state) as server:
        yield server
