"""EST to the letter: the client against servers that answer in every way that the RFCs allow. Table: docs/est.md."""

import base64
import json
import re
from dataclasses import replace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from handler.exit_status import DONE, PENDING, REFUSED, SWITCHED
from tests.invariants import broken_invariants
from tests.simulators.est_server import EstServer
from tests.simulators.factory import running_factory
from tests.simulators.pki import certificate_pem
from tests.unit.test_csrattrs import EXTENSION_REQUEST, KEY_USAGE, RSA, SHA384, USAGE, attribute, extension, oid, seq

from .in_process import LIMITS, call

ID = "certs-est"
PATIENT = replace(LIMITS, total=60.0, read=10.0)


@pytest.fixture
def factory(tmp_path):
    with running_factory(tmp_path / "device", "file") as running:
        running.device.write_request(ID)
        yield running


def rotates(factory, limits=LIMITS):
    outcome = call(factory.device, limits=limits)
    assert (outcome.status, outcome.said) == (SWITCHED, "")
    assert call(factory.device).status == DONE
    assert broken_invariants(factory, ID, completed=True) == []


def enrolments(factory):
    return [each for each in factory.est.requests if each.path.endswith("/simplereenroll")]


def journal(factory):
    return json.loads((factory.device.storage / "renew-client-cert/rotation.json").read_bytes())


# simplereenroll: the answer


@pytest.mark.parametrize(
    "looks",
    [
        {"status": 200},
        {"status": 201},
        {"content_type": "application/pkcs7-mime; smime-type=certs-only"},
        {"content_type": 'Application/PKCS7-MIME; smime-type="certs-only"; name=smime.p7c'},
        {"content_type": "application/x-pkcs7-mime"},
        {"headers": {"Content-Transfer-Encoding": "binary"}},
        {"headers": {"Content-Transfer-Encoding": "base64"}},
        {"line_breaks": True},
        {"pem_armour": True},
    ],
    ids=str,
)
def test_every_form_of_the_answer_is_understood(factory, looks):
    for name, value in looks.items():
        setattr(factory.est, name, value)
    rotates(factory)


def test_a_chunked_answer_is_understood(factory):
    factory.est.headers = {"Transfer-Encoding": "chunked"}
    rotates(factory)


@pytest.mark.parametrize("kind", ["the whole chain", "the chain backwards", "strangers beside it"])
def test_a_longer_answer_in_any_order_is_understood(factory, kind):
    pki = factory.pki
    chain = [pki.device_ca.certificate, pki.root.certificate]
    if kind == "the whole chain":
        factory.est.after = chain
    elif kind == "the chain backwards":
        factory.est.before = chain[::-1]
    else:
        factory.est.before = [pki.authority("somebody-else-ca").certificate]
    rotates(factory)


# 202


@pytest.mark.parametrize("retry_after", ["1", "0", None, "soon"])
def test_a_server_that_asks_to_come_back_soon_is_waited_for_with_the_same_csr_on_new_connections(factory, retry_after):
    factory.est.postpone(*["1" if retry_after in (None, "soon") else retry_after] * 2)
    rotates(factory, PATIENT)
    requests = enrolments(factory)
    assert len(requests) == 3
    assert len({each.body for each in requests}) == 1
    assert len({each.connection for each in requests}) == 3


@pytest.mark.parametrize(("retry_after", "seconds"), [("3600", 3600), ("31536000", 24 * 3600), (None, 30), ("-5", 30)])
def test_a_server_that_asks_to_come_back_late_leaves_it_pending_with_the_time_in_the_journal(
    factory, retry_after, seconds
):
    factory.est.postpone(retry_after)
    outcome = call(factory.device)
    assert outcome.status == PENDING
    assert outcome.said == f"the EST server asks to come back in {seconds} s"
    assert journal(factory)["waiting"]["until"] is not None
    assert call(factory.device, "resume").status == DONE
    assert len({each.body for each in enrolments(factory)}) == 1
    assert broken_invariants(factory, ID, completed=True) == []


def test_that_a_server_asks_to_come_back_is_reported_once(factory):
    factory.est.postpone("3600", "3600", "3600")
    for _ in range(3):
        assert call(factory.device).status == PENDING
    assert call(factory.device).status == SWITCHED
    failed = [each["event"] for each in factory.gateway.unique_events() if not each["event"]["success"]]
    assert [each["details"] for each in failed] == ["the EST server asks to come back in 3600 s"]


# /cacerts


@pytest.mark.parametrize("where", ["in the answer", "in /cacerts", "in the CA file", "nowhere"])
def test_the_issuer_is_found_wherever_it_is_and_nowhere_is_good_enough(tmp_path, where):
    with running_factory(tmp_path / "device", "file", with_device_cas=where == "in the CA file") as factory:
        pki = factory.pki
        factory.device.write_request(ID)
        factory.est.after = [pki.device_ca.certificate] if where == "in the answer" else []
        if where == "in /cacerts":
            factory.est.cacerts = [pki.authority("unrelated-ca").certificate, pki.device_ca.certificate]
        trusted = (factory.device.storage / "root.crt").read_bytes()
        rotates(factory)
        assert (factory.device.storage / "root.crt").read_bytes() == trusted


@pytest.mark.parametrize("where", ["in the answer", "in /cacerts", "in the CA file"])
def test_a_forged_issuer_is_found_out_wherever_the_real_one_is(tmp_path, where):
    with running_factory(tmp_path / "device", "file", with_device_cas=where == "in the CA file") as factory:
        pki = factory.pki
        factory.device.write_request(ID)
        factory.est.after = [pki.device_ca.certificate] if where == "in the answer" else []
        factory.est.cacerts = [pki.device_ca.certificate] if where == "in /cacerts" else None
        factory.est.misissue = "forged issuer"
        identity = factory.device.current_identity()
        assert call(factory.device).status == REFUSED
        assert factory.device.current_identity() == identity
        assert {each.path for each in factory.gateway.requests} == {"/events"}


def test_a_ca_that_got_a_new_key_is_understood_where_cacerts_has_it(tmp_path):
    """The CA file holds the CA's old certificate, the answer the leaf alone, /cacerts both (RFC 7030 §4.1.3)."""
    with running_factory(tmp_path / "device", "file") as factory:
        factory.device.write_request(ID)
        new = factory.pki.device_ca
        old = factory.pki.authority("device-ca", issuer=factory.pki.root)
        assert old.name == new.name
        bundle = factory.device.storage / "root.crt"
        bundle.write_bytes(bundle.read_bytes() + certificate_pem(old.certificate))
        factory.est.cacerts = [old.certificate, new.certificate]
        rotates(factory)


@pytest.mark.parametrize("status", [204, 201, 302, 404, 500])
def test_cacerts_with_another_status_than_200_are_done_without(factory, status):
    headers = {"Location": "https://elsewhere.example/"} if status == 302 else {}
    times = 1 if status == 500 else None
    factory.est.faults.add("GET", "/cacerts", times=times, status=status, headers=headers)
    rotates(factory)


# /csrattrs


def test_csrattrs_are_not_asked_for_without_need(factory):
    rotates(factory)
    assert {each.path.rpartition("/")[2] for each in factory.est.requests} == {"simplereenroll", "cacerts"}


@pytest.mark.parametrize("answer", [None, b"", seq(), b"garbage"], ids=["404", "204", "empty", "garbage"])
def test_a_refused_csr_is_final_where_csrattrs_say_nothing(factory, answer):
    factory.est.csrattrs = answer
    factory.est.faults.add("POST", "/simplereenroll", times=None, status=400, body="I do not like it")
    outcome = call(factory.device)
    assert outcome.status == REFUSED
    assert "I do not like it" in outcome.said
    assert [each.path.rpartition("/")[2] for each in factory.est.requests] == ["simplereenroll", "csrattrs"]


def wanted(factory, der):
    """Have the server refuse every CSR but one that heeds its /csrattrs."""
    factory.est.csrattrs = der
    factory.est.lenient = True
    factory.est.faults.add("POST", "/simplereenroll", times=1, status=400, body="see /csrattrs")


def test_after_a_refusal_the_csr_holds_what_csrattrs_ask_for_and_a_retry_sends_it_again(factory):
    wanted(factory, seq(oid(SHA384), attribute(EXTENSION_REQUEST, seq(extension(KEY_USAGE, USAGE)))))
    factory.est.postpone("3600")
    assert call(factory.device).status == PENDING
    assert call(factory.device, "resume").status == DONE
    first, second, third = enrolments(factory)
    assert first.body != second.body == third.body
    csr = x509.load_der_x509_csr(base64.b64decode(third.body))
    assert isinstance(csr.signature_hash_algorithm, hashes.SHA384)
    assert csr.extensions.get_extension_for_class(x509.KeyUsage).value.key_agreement
    assert broken_invariants(factory, ID, completed=True) == []


def test_with_est_csrattrs_in_the_request_they_are_asked_for_first(factory):
    path = factory.device.request_file
    path.write_text(path.read_text() + "EST_CSRATTRS=yes\n")
    factory.est.csrattrs = seq(attribute(EXTENSION_REQUEST, seq(extension(KEY_USAGE, USAGE))))
    factory.est.lenient = True
    rotates(factory)
    paths = [each.path.rpartition("/")[2] for each in factory.est.requests]
    assert paths == ["csrattrs", "simplereenroll", "cacerts"]
    csr = x509.load_der_x509_csr(base64.b64decode(enrolments(factory)[0].body))
    assert csr.extensions.get_extension_for_class(x509.KeyUsage).value.key_agreement


def test_a_server_that_wants_another_kind_of_key_is_refused_by_name(factory):
    wanted(factory, seq(oid(RSA)))
    outcome = call(factory.device)
    assert outcome.status == REFUSED
    assert "RSA" in outcome.said
    assert "/csrattrs" in outcome.said


# Addresses


@pytest.mark.parametrize(
    "label", ["/.well-known/est", "/.well-known/est/factory-1", "/est", "/.well-known/est/a/b%20c"]
)
@pytest.mark.parametrize("slash", ["", "/"])
def test_a_base_url_with_a_path_label_is_used_as_it_is(tmp_path, label, slash):
    with running_factory(tmp_path / "device", "file", est={"prefix": label}) as factory:
        factory.device.write_request(ID, estserver=f"{factory.device.est_url}{slash}")
        rotates(factory)
        assert {each.path.rpartition("/")[0] for each in factory.est.requests} == {label}


def test_a_server_at_an_ipv6_literal_is_asked(factory):
    with EstServer(factory.est, host="::1") as server:
        factory.device.write_request(ID, estserver=f"https://[::1]:{server.port}/.well-known/est")
        rotates(factory)
        assert {each.headers["Host"] for each in factory.est.requests} == {f"[::1]:{server.port}"}


# Refusals


@pytest.mark.parametrize("scheme", ['Basic realm="est"', 'Digest realm="est", nonce="1"', "basic"])
def test_a_server_that_wants_a_password_is_told_apart(factory, scheme):
    factory.est.faults.add("POST", "/simplereenroll", times=None, status=401, headers={"WWW-Authenticate": scheme})
    outcome = call(factory.device)
    assert outcome.status == REFUSED
    assert "client certificate authentication" in outcome.said


def test_a_redirect_within_the_origin_is_followed_once(factory):
    url = f"{factory.device.est_url}/simplereenroll"
    factory.est.faults.add("POST", "/simplereenroll", times=1, status=307, headers={"Location": url})
    rotates(factory)
    assert len({each.body for each in enrolments(factory)}) == 1


def test_a_second_redirect_is_final(factory):
    url = f"{factory.device.est_url}/simplereenroll"
    factory.est.faults.add("POST", "/simplereenroll", times=None, status=307, headers={"Location": url})
    assert call(factory.device).status == REFUSED
    assert len(enrolments(factory)) == 2


def test_a_redirect_to_another_origin_is_refused_by_name(factory):
    location = "https://elsewhere.example:8443/est"
    factory.est.faults.add("POST", "/simplereenroll", times=None, status=302, headers={"Location": location})
    outcome = call(factory.device)
    assert outcome.status == REFUSED
    assert re.search(r"redirects to https://elsewhere\.example: another origin is not followed", outcome.said)
