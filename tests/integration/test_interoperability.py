"""Independent EST programs: the program against libest's server, libest's and strongSwan's clients against
the simulator.
"""

import base64

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from handler.crypto.csr import build_csr
from handler.exit_status import DONE, PENDING, REFUSED, SWITCHED
from tests import journal as journals
from tests.authority import read
from tests.independent_est import EstClients, running_libest
from tests.invariants import broken_files, broken_invariants
from tests.simulators.factory import running_factory
from tests.simulators.pki import spki_pem
from tests.unit.servers.test_csrattrs import (
    EC,
    EXTENSION_REQUEST,
    KEY_USAGE,
    P256,
    USAGE,
    attribute,
    extension,
    oid,
    seq,
)

ID = "certs-independent"
CHALLENGE_PASSWORD = "1.2.840.113549.1.9.7"


def request(factory, server, *lines):
    path = factory.device.write_request(ID, estserver=server.url)
    path.write_text(path.read_text() + "".join(f"{line}\n" for line in lines))


def rotates(factory, server):
    before = server.issued()
    done = factory.device.run()
    assert done.returncode == SWITCHED, done.stdout + done.stderr
    assert factory.device.run().returncode == DONE
    assert server.issued() == before + 1
    assert broken_invariants(factory, ID, completed=True) == []
    assert factory.est.requests == []


def refused(factory, server):
    before = factory.device.current_identity()
    done = factory.device.run()
    assert done.returncode == REFUSED, done.stdout + done.stderr
    assert server.issued() == 0
    assert factory.device.current_identity() == before
    assert broken_files(factory) == []
    assert [each["event"]["success"] for each in factory.gateway.completed(ID)] == [False]
    return done.stderr


def asked(server):
    """The operations in order; each is asked for over and over where it is not answered."""
    return [operation for _, operation, _ in server.calls()]


# The program and libest's server


@pytest.mark.parametrize("option", ["-n", "-o"], ids=["certificates alone", "a password where there is no certificate"])
def test_a_whole_rotation(factory, tmp_path, option):
    with running_libest(tmp_path / "est", factory.pki, option) as server:
        request(factory, server)
        rotates(factory, server)
        assert asked(server) == ["simplereenroll", "cacerts"]


def test_two_rotations_in_a_row(factory, tmp_path):
    with running_libest(tmp_path / "est", factory.pki, "-n") as server:
        request(factory, server)
        rotates(factory, server)
        first = factory.device.current_identity()
        factory.device.write_request(f"{ID}-again", estserver=server.url)
        assert factory.device.run().returncode == SWITCHED
        assert factory.device.current_identity().public_key != first.public_key


def test_a_subject_alternative_name_is_kept(tmp_path):
    with (
        running_factory(tmp_path / "device", "file", san=["device.example", "192.0.2.7"]) as factory,
        running_libest(tmp_path / "est", factory.pki, "-n") as server,
    ):
        request(factory, server)
        rotates(factory, server)
        kept = factory.device.current_identity().certificate.extensions
        names = kept.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.DNSName) == ["device.example"]


def test_manual_approval_is_pending_and_finished_by_hand_with_the_same_csr(factory, tmp_path):
    with running_libest(tmp_path / "est", factory.pki, "-n", "-m", "3600") as server:
        request(factory, server)
        assert factory.device.run().returncode == PENDING
        journal = journals.read(factory.device.storage)
        assert journal["waiting"]["reason"].endswith("POST /simplereenroll: it asks to come back in 3600 s")
        # Called again too early, it leaves the server alone.
        assert factory.device.run().returncode == PENDING
        assert server.calls() == [("POST", "simplereenroll", 202)]
        assert factory.device.run("resume").returncode == DONE
        assert asked(server) == ["simplereenroll", "simplereenroll", "cacerts"]
        csr = x509.load_der_x509_csr(base64.b64decode(journal["rotation"]["csr"]))
        assert server.printed(csr.signature)
        assert factory.device.current_identity().public_key == spki_pem(csr.public_key())
        assert broken_invariants(factory, ID, completed=True) == []


@pytest.mark.parametrize(("options", "scheme"), [((), "Basic"), (("-h",), "Digest")])
def test_a_server_that_wants_a_password_is_refused_with_what_to_set_up(files, tmp_path, options, scheme):
    with running_libest(tmp_path / "est", files.pki, *options) as server:
        request(files, server)
        said = refused(files, server)
        assert f"asks for a password (HTTP {scheme}), which this device does not have: set it up for client" in said
        assert server.calls() == [("POST", "simplereenroll", 401)]


def test_a_server_that_wants_the_csr_bound_to_the_connection_is_refused_in_its_words(files, tmp_path):
    """Proof of possession by tls-unique (RFC 7030 §3.5), which the program does not give."""
    with running_libest(tmp_path / "est", files.pki, "-n", "-t") as server:
        request(files, server)
        assert "Proof of Possession" in refused(files, server)


def test_a_server_that_does_not_know_the_device_ca_is_refused(files, tmp_path):
    with running_libest(tmp_path / "est", files.pki, "-n", trusted=(files.pki.server_root,)) as server:
        request(files, server)
        refused(files, server)


def test_csrattrs_for_another_curve_are_refused_by_name(files, tmp_path):
    """libest's own: macAddress, challengePassword, secp384r1 and SHA-384, each an OID alone."""
    with running_libest(tmp_path / "est", files.pki, "-n") as server:
        request(files, server, "EST_CSRATTRS=yes")
        assert "(in /csrattrs) for a key of the kind secp384r1" in refused(files, server)
        assert asked(server) == ["csrattrs"]


def test_csrattrs_that_are_not_asked_for_do_not_hinder(files, tmp_path):
    with running_libest(tmp_path / "est", files.pki, "-n") as server:
        request(files, server)
        rotates(files, server)


def test_csrattrs_that_can_be_had_are_heeded(factory, tmp_path):
    usage = attribute(EXTENSION_REQUEST, seq(extension(KEY_USAGE, USAGE)))
    wanted = base64.b64encode(seq(oid(CHALLENGE_PASSWORD), usage, attribute(EC, oid(P256)))).decode()
    with running_libest(tmp_path / "est", factory.pki, "-n", csrattrs=wanted) as server:
        request(factory, server, "EST_CSRATTRS=yes")
        rotates(factory, server)
        assert asked(server) == ["csrattrs", "simplereenroll", "cacerts"]
        issued = factory.device.current_identity().certificate.extensions
        assert issued.get_extension_for_class(x509.KeyUsage).value.key_agreement


def test_a_csr_refused_for_its_attributes_is_made_again_with_those_that_can_be_had(files, tmp_path):
    """--enforce-csr: what /csrattrs name has to be in the CSR, else 400."""
    wanted = base64.b64encode(seq(attribute(EXTENSION_REQUEST, seq(extension(KEY_USAGE, USAGE))))).decode()
    with running_libest(tmp_path / "est", files.pki, "-n", "--enforce-csr", csrattrs=wanted) as server:
        request(files, server)
        rotates(files, server)


def test_a_csr_refused_for_attributes_that_cannot_be_had_is_final(files, tmp_path):
    with running_libest(tmp_path / "est", files.pki, "-n", "--enforce-csr") as server:
        request(files, server)
        said = refused(files, server)
        assert "CSR Attributes missing in request" in said
        assert "secp384r1" in said
        assert asked(server) == ["simplereenroll", "csrattrs"]


# Their clients and the simulator


@pytest.fixture
def standard(tmp_path):
    """Answer simplereenroll with 200, as RFC 7030 requires: neither client accepts estserver's 201."""
    with running_factory(tmp_path / "device", "file", est={"status": 200}) as running:
        yield running


@pytest.fixture
def clients(standard, tmp_path):
    return EstClients(standard, tmp_path / "client")


@pytest.fixture
def for_libest(standard):
    """Answer with base64 in lines, which libest needs (and strongSwan does not take), and with the kind of PKCS#7."""
    standard.est.line_breaks = True
    standard.est.content_type = "application/pkcs7-mime; smime-type=certs-only"
    return standard


def new_csr(factory, clients):
    """Write the program's CSR for a new key of the device, and give that key's public half."""
    key = ec.generate_private_key(ec.SECP256R1())
    clients.write("csr.der", build_csr(read(factory.device.certificate), key))
    return spki_pem(key.public_key())


def test_libest_takes_the_simulators_ca_certificates(for_libest, clients):
    assert "Get CA Cert success" in clients.libest("-g").stdout
    assert clients.certificates("cacert-0-0.pkcs7") == [for_libest.pki.root.certificate]


def test_libest_reads_the_simulators_csrattrs(for_libest, clients):
    for_libest.est.csrattrs = seq(attribute(EXTENSION_REQUEST, seq(extension(KEY_USAGE, USAGE))))
    clients.libest("-a")
    assert base64.b64decode(clients.read("csr-0-0.base64")) == for_libest.est.csrattrs


def test_libest_renews_a_certificate_at_the_simulator(for_libest, clients):
    """It makes the CSR itself, for the same key, with what the certificate holds: as strict as the simulator is."""
    assert "EST_ERR_NONE" in clients.libest("-r").stdout
    assert clients.certificates("cert-0-0.pkcs7") == for_libest.est.issued
    assert for_libest.est.calls() == [("POST", "/.well-known/est/simplereenroll")]


def test_libest_is_answered_401_where_it_sends_a_chain(for_libest, clients):
    clients.write("all.pem", for_libest.pki.ca_bundle_pem(with_device_cas=True))
    assert "EST_ERR_AUTH_FAIL" in clients.libest("-r", server_ca="all.pem").stdout
    assert for_libest.est.issued == []


def test_strongswan_takes_the_simulators_ca_certificates(standard, clients):
    assert clients.strongswan("--estca", "--caout", "ca").returncode == 0
    assert x509.load_pem_x509_certificate(clients.read("ca.pem")) == standard.pki.root.certificate


def test_strongswan_renews_a_certificate_at_the_simulator(standard, clients):
    public_key = new_csr(standard, clients)
    done = clients.strongswan("--est")
    assert done.returncode == 0
    issued = x509.load_pem_x509_certificate(done.stdout.encode())
    assert [issued] == standard.est.issued
    assert spki_pem(issued.public_key()) == public_key


def test_strongswan_comes_back_to_the_simulator_when_it_is_asked_to(standard, clients):
    new_csr(standard, clients)
    standard.est.postpone("1")
    done = clients.strongswan("--est", "--interval", "1", "--maxpolltime", "20")
    assert done.returncode == 0
    assert [each.status for each in standard.est.requests] == [202, 200]
    assert [x509.load_pem_x509_certificate(done.stdout.encode())] == standard.est.issued
