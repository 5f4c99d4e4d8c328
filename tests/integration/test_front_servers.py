"""Real nginx and Apache in front of the gateway and the EST server."""

import pytest

from handler.exit_status import DONE, REFUSED, SWITCHED
from tests.invariants import broken_invariants

from .fronts import apache, nginx
from .in_process import call

ID = "certs-front"
pytestmark = pytest.mark.requested(ID)


@pytest.fixture
def factory(files):
    return files


def through(device, front, behind):
    """Have the device ask the gateway through the server in front."""
    device.sota_toml.write_text(device.sota_toml.read_text().replace(behind, front))


def of_another_ca(factory):
    """Have the EST server issue by a CA that it trusts and that nginx does not know."""
    other = factory.pki.authority("new-device-ca")
    factory.est.trusted.append(other)
    factory.gateway.trusted.append(other)

    def issue(draft, _pki):
        draft.issuer = other

    factory.est.misissue = issue


def test_nginx_that_does_not_trust_the_new_certificate_proves_nothing(factory, tmp_path):
    of_another_ca(factory)
    old = factory.device.current_identity()
    with nginx(factory, tmp_path / "front", factory.gateway_server.url) as url:
        through(factory.device, url, factory.gateway_server.url)
        outcome = call(factory.device)
        assert outcome.status == REFUSED, outcome
        assert "answered HTTP 400" in outcome.said
        assert "SSL certificate error" in outcome.said
    assert factory.device.current_identity() == old
    assert broken_invariants(factory, ID, completed=False) == []


def test_nginx_in_front_of_the_est_server_that_does_not_trust_the_new_certificate_refuses_it(factory, tmp_path):
    of_another_ca(factory)
    old = factory.device.current_identity()
    with nginx(factory, tmp_path / "front", factory.est_server.url) as url:
        factory.device.write_request(ID, estserver=f"{url}{factory.est.prefix}")
        outcome = call(factory.device)
        assert outcome.status == REFUSED, outcome
        assert "does not accept the certificate that it issued" in outcome.said
        assert "SSL certificate error" in outcome.said
    assert factory.device.current_identity() == old
    assert factory.gateway.next_pubkey is None


def test_nginx_in_front_lets_the_old_certificate_through(factory, tmp_path):
    """Or the test above would prove nothing."""
    with nginx(factory, tmp_path / "front", factory.gateway_server.url) as url:
        through(factory.device, url, factory.gateway_server.url)
        factory.device.request_file.unlink()
        lines = factory.device.run("check").stdout.splitlines()
        assert [line.split()[0] for line in lines if "gateway" in line.split()[1:2]] == ["ok"]


@pytest.mark.parametrize("protocol", ["TLSv1.3", "TLSv1.2"])
def test_apache_that_asks_for_the_certificate_where_a_device_enrols(factory, tmp_path, protocol):
    """After the handshake in TLS 1.3, by renegotiation in TLS 1.2."""
    with apache(factory, tmp_path / "front", factory.est_server.url, protocol) as url:
        factory.device.write_request(ID, estserver=f"{url}{factory.est.prefix}")
        assert call(factory.device).status == SWITCHED
        assert call(factory.device).status == DONE
    assert broken_invariants(factory, ID, completed=True) == []
