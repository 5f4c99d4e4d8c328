"""What goes over the wire, beside its shape: whose keys, whose certificate, whom the device believes, and where to."""

import base64
import json
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from handler.exit_status import PENDING, REFUSED, SWITCHED
from tests.simulators.factory import running_factory
from tests.simulators.gateway import Gateway
from tests.simulators.pki import FactoryPki, certificate_pem, spki_pem

WIRE = json.loads((Path(__file__).parents[1] / "data/wire.json").read_text())


def rotate(factory, environment=None):
    factory.device.write_request("certs-1669058841")
    done = factory.device.run(environment=environment)
    assert done.returncode == SWITCHED, done.stderr
    return done


def requests_of(factory, path):
    return [each for each in [*factory.est.requests, *factory.gateway.requests] if each.path == path]


def flattened(requests):
    """Give the requests of a gateway in order, each event as one of its own: we send several at once."""
    found = []
    for method, path, body in requests:
        events = json.loads(body) if path == "/events" else [None]
        found += [(method, path, event and event["eventType"]["id"]) for event in events]
    return found


# What is sent


def test_events_and_requests_to_the_gateway_each_keep_the_order_of_the_reference(factory):
    rotate(factory)
    reference = flattened((each["method"], each["path"], each["body"]) for each in WIRE["requests"])
    reference = [each for each in reference if not each[1].endswith("/simplereenroll")]
    ours = flattened((each.method, each.path, each.body) for each in factory.gateway.requests)
    # Before the gateway is told anything the device's files are looked at, which the reference does not.
    assert ours.pop(ours.index(("GET", "/config-device", None))) < ours[ours.index(("PATCH", "/device", None))]
    for events in (True, False):
        expected = [each for each in reference if (each[2] is not None) == events]
        expected += [("POST", "/events", "CertRotationCompleted")] * events
        assert [each for each in ours if (each[2] is not None) == events] == expected
    # An event never comes before the request that it reports.
    announced = ours.index(("PATCH", "/device", None))
    assert ours.index(("POST", "/events", "Lock device configuration on server")) > announced
    assert ours[-1] == ("POST", "/events", "CertRotationCompleted")


def test_the_keys_that_are_announced_are_the_new_one(factory):
    rotate(factory)
    new = factory.device.current_identity().public_key
    (announced,) = requests_of(factory, "/device")
    (stored,) = requests_of(factory, "/config")
    assert announced.json() == {"next_pubkey": new}
    assert stored.json()["public-key"] == new
    assert stored.json()["reason"] == "Rotating device client certificate"
    (enrolled,) = requests_of(factory, "/.well-known/est/simplereenroll")
    csr = x509.load_der_x509_csr(base64.b64decode(b"".join(enrolled.body.split()), validate=True))
    assert spki_pem(csr.public_key()) == new


def test_the_gateway_sees_the_new_certificate_with_the_completion_for_the_first_time(factory):
    old = spki_pem(factory.device.certificate.public_key())
    rotate(factory)
    new = factory.device.current_identity().public_key
    users = [each.public_key for each in factory.gateway.requests]
    assert users == [old] * (len(users) - 1) + [new]
    assert [each["eventType"]["id"] for each in factory.gateway.requests[-1].json()][-1] == "CertRotationCompleted"
    trial = [(each.path.rpartition("/")[2], each.public_key) for each in factory.est.requests]
    assert trial == [("simplereenroll", old), ("cacerts", new)]


def test_every_request_says_who_asks_and_sends_nothing_of_the_environment(files, tmp_path):
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login somebody password hunter2\n")
    (tmp_path / ".netrc").chmod(0o600)
    rotate(files, environment={"HOME": str(tmp_path), "NETRC": str(tmp_path / ".netrc")})
    for request in [*files.est.requests, *files.gateway.requests]:
        assert request.headers["User-Agent"].startswith("renew-client-cert/")
        assert "Authorization" not in request.headers
        assert "Cookie" not in request.headers


def test_events_tell_the_target_that_runs_and_the_time_they_happened(files):
    began = datetime.now(UTC).replace(microsecond=0)
    rotate(files)
    for event in files.gateway.unique_events():
        assert event["event"]["targetName"] == "intel-corei7-64-lmp-290"
        assert event["event"]["version"] == "290"
        assert began <= datetime.fromisoformat(event["deviceTime"]) <= datetime.now(UTC)


# TLS


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("keys", ["file", "token"])
def test_both_versions_of_tls_are_spoken(tmp_path, keys, version):
    settings = {"minimum_version": version, "maximum_version": version}
    with running_factory(tmp_path / "device", keys, est=settings, gateway=settings) as factory:
        rotate(factory)
        spoken = {each.tls_version for each in [*factory.est.requests, *factory.gateway.requests]}
        assert spoken == {version.name.replace("_", ".")}


@pytest.mark.parametrize("server", ["est", "gateway"])
@pytest.mark.parametrize("fault", ["unknown root", "other host", "expired"])
def test_a_server_that_is_not_the_right_one_is_told_nothing(files, tmp_path, server, fault):
    """The unknown root stands in the CA bundles that the environment names."""
    stranger = FactoryPki()
    identities = {
        "unknown root": stranger.server_identity(),
        "other host": files.pki.server_identity(["gateway.example"]),
        "expired": files.pki.server_identity(begins=datetime.now(UTC) - timedelta(days=400)),
    }
    bundle = tmp_path / "bundle.pem"
    bundle.write_bytes(certificate_pem(stranger.server_root.certificate))
    environment = dict.fromkeys(("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"), str(bundle))
    state = getattr(files, server)
    state.server_identity = identities[fault]
    identity = files.device.current_identity()
    files.device.write_request("certs-1")
    done = files.device.run(environment=environment)
    assert done.returncode == PENDING
    netloc = getattr(files, f"{server}_server").netloc
    assert netloc in done.stderr
    assert state.requests == []
    assert files.device.current_identity() == identity


# Where to


def test_redirects_are_followed_to_the_same_origin_only(files):
    elsewhere = "https://localhost:1/.well-known/est/simplereenroll"
    files.est.faults.add("POST", "/simplereenroll", status=307, headers={"Location": elsewhere})
    files.device.write_request("certs-1")
    done = files.device.run()
    assert done.returncode == REFUSED
    assert "another origin" in done.stderr
    assert files.est.issued == []
    here = "/.well-known/est/simplereenroll"
    files.est.faults.add("POST", "/simplereenroll", status=307, headers={"Location": here})
    assert files.device.run().returncode == SWITCHED
    assert len(files.est.issued) == 1


def test_config_url_names_the_server_of_configurations_and_of_nothing_else(files):
    with Gateway(files.gateway) as other:
        rotate(files, environment={"CONFIG_URL": f"{other.url}/config"})
        hosts = {each.path: each.headers["Host"] for each in files.gateway.requests}
        main = files.gateway_server.netloc
        assert hosts == {"/events": main, "/device": main, "/config-device": other.netloc, "/config": other.netloc}


def test_requests_are_those_of_the_reference_client(factory):
    rotate(factory)
    reference = [each for each in WIRE["requests"] if each["path"] != "/events"]
    ours = [each for each in [*factory.est.requests, *factory.gateway.requests] if each.path != "/events"]
    # Beside the trial and the first look at the device's files, of which the reference has nothing.
    ours = [each for each in ours if not each.path.endswith("/cacerts")]
    ours.pop(next(number for number, each in enumerate(ours) if each.path == "/config-device"))
    assert [(each.method, each.path) for each in ours] == [(each["method"], each["path"]) for each in reference]
    for mine, theirs in zip(ours, reference, strict=True):
        assert mine.headers["Content-Type"] == theirs["headers"]["Content-Type"]
        if theirs["headers"]["Content-Type"] == "application/json" and theirs["body"]:
            assert shape(mine.json()) == shape(json.loads(theirs["body"]))
    events = [
        each for request in WIRE["requests"] if request["path"] == "/events" for each in json.loads(request["body"])
    ]
    sent = factory.gateway.unique_events()
    assert [each["eventType"]["id"] for each in sent[:-1]] == [each["eventType"]["id"] for each in events]
    assert [shape(each) for each in sent[:-1]] == [shape(each) for each in events]
    assert sent[-1]["eventType"]["id"] == "CertRotationCompleted"


@pytest.mark.parametrize("keys", ["file", "token"])
def test_exactly_one_certificate_is_presented_although_the_ca_file_holds_its_issuer(tmp_path, keys):
    with running_factory(tmp_path / "device", keys, with_device_cas=True) as factory:
        rotate(factory)
        assert {each.chain_length for each in [*factory.est.requests, *factory.gateway.requests]} == {1}


def shape(value):
    """Give a JSON value with every text, number and truth replaced by its type."""
    if isinstance(value, dict):
        return {key: shape(each) for key, each in value.items()}
    return [shape(each) for each in value] if isinstance(value, list) else type(value).__name__
