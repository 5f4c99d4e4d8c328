"""EST to the letter: the client against servers that answer in every way that the RFCs allow. Table: docs/est.md."""

import base64
import re
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from handler.exit_status import DONE, PENDING, REFUSED, SWITCHED
from handler.servers.http import Limits
from tests import journal as journals
from tests.invariants import broken_invariants
from tests.simulators.est_server import EstServer
from tests.simulators.factory import running_factory
from tests.simulators.pki import certificate_pem
from tests.unit.servers.test_csrattrs import (
    EXTENSION_REQUEST,
    KEY_USAGE,
    RSA,
    SHA384,
    USAGE,
    attribute,
    extension,
    oid,
    seq,
)

from .in_process import LIMITS, call

ID = "certs-est"
pytestmark = pytest.mark.requested(ID)
PATIENT = LIMITS._replace(total=60.0, read=10.0)


@pytest.fixture
def factory(files):
    return files


def rotates(factory, limits=LIMITS):
    outcome = call(factory.device, limits=limits)
    assert (outcome.status, outcome.said) == (SWITCHED, "")
    assert call(factory.device).status == DONE
    assert broken_invariants(factory, ID, completed=True) == []


def enrolments(factory):
    return [each for each in factory.est.requests if each.path.endswith("/simplereenroll")]


def journal(factory):
    return journals.read(factory.device.storage)


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


def test_an_answer_that_is_cut_off_is_one_enrolment_and_a_later_call_sends_the_same_csr(factory):
    factory.est.faults.add("POST", "/simplereenroll", times=None, cut=100)
    outcome = call(factory.device)
    assert (outcome.status, "the connection broke off before a whole answer" in outcome.said) == (PENDING, True)
    assert len(enrolments(factory)) == 1
    factory.est.faults.clear()
    rotates(factory)
    assert len(enrolments(factory)) == 2
    assert len(set(factory.est.csrs)) == 1


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


def in_a_second():
    return format_datetime(datetime.now(UTC) + timedelta(seconds=1), usegmt=True)


@pytest.mark.parametrize(
    "retry_after", ["1", "0", in_a_second, "Wed, 01 Jan 2020 00:00:00 GMT"], ids=["1", "0", "a date", "a past date"]
)
def test_a_server_that_asks_to_come_back_soon_is_waited_for_with_the_same_csr_on_new_connections(factory, retry_after):
    factory.est.postpone(*[retry_after() if callable(retry_after) else retry_after] * 2)
    rotates(factory, PATIENT)
    requests = enrolments(factory)
    assert len(requests) == 3
    assert len({each.body for each in requests}) == 1
    assert len({each.connection for each in requests}) == 3


@pytest.mark.parametrize(
    ("retry_after", "seconds"),
    [("3600", 3600), ("31536000", 24 * 3600), (None, 30), ("soon", 30), ("-5", 30)],
)
def test_a_server_that_asks_to_come_back_late_leaves_it_pending_with_the_time_in_the_journal(
    factory, retry_after, seconds
):
    factory.est.postpone(retry_after)
    outcome = call(factory.device)
    assert outcome.status == PENDING
    assert outcome.said.endswith(f"POST /simplereenroll: it asks to come back in {seconds} s")
    assert journal(factory)["waiting"]["until"] is not None
    assert call(factory.device, "resume").status == DONE
    assert len({each.body for each in enrolments(factory)}) == 1
    assert broken_invariants(factory, ID, completed=True) == []


def test_a_date_far_away_is_kept_too(factory):
    when = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=3)
    factory.est.postpone(format_datetime(when, usegmt=True))
    assert call(factory.device).status == PENDING
    assert abs(datetime.fromisoformat(journal(factory)["waiting"]["until"]) - when) < timedelta(seconds=2)


@pytest.mark.parametrize("content_type", ["text/plain", "text/html", None])
def test_a_postponement_may_come_with_a_text_for_people(factory, content_type):
    """With a page of HTML as well: that is no captive portal."""
    headers = {"Retry-After": "3600", **({"Content-Type": content_type} if content_type else {})}
    factory.est.faults.add("POST", "/simplereenroll", status=202, headers=headers, body="<p>An operator will look</p>")
    assert call(factory.device).said.endswith("POST /simplereenroll: it asks to come back in 3600 s")
    assert journal(factory)["waiting"]["until"] is not None
    assert len(enrolments(factory)) == 1


def test_a_server_is_left_alone_by_calls_that_nobody_makes_by_hand(factory):
    factory.est.postpone("3600")
    assert call(factory.device).status == PENDING
    for command in (None, "unattended"):
        outcome = call(factory.device, command)
        assert outcome.status == PENDING
        assert "asks to come back in 3600 s; not contacting it yet" in outcome.said
    assert len(enrolments(factory)) == 1
    assert journal(factory)["waiting"]["attempts"] == 1


def test_another_server_under_the_same_id_need_not_be_left_alone(factory):
    factory.est.postpone("3600")
    assert call(factory.device).status == PENDING
    url = factory.device.est_url.replace("127.0.0.1", "localhost")
    factory.device.write_request(ID, estserver=url)
    rotates(factory)


def test_a_time_that_no_server_was_granted_stops_nobody(factory):
    """The clock was ahead when it was written."""
    factory.est.postpone("3600")
    assert call(factory.device).status == PENDING
    content = journals.read(factory.device.storage)
    content["waiting"]["until"] = "2099-01-01T00:00:00+00:00"
    journals.write(factory.device.storage, content)
    rotates(factory)


def test_that_a_server_asks_to_come_back_is_reported_once(factory):
    factory.est.postpone("3600", "3600", "3600")
    assert call(factory.device).status == PENDING
    for _ in range(2):
        assert call(factory.device, "resume").status == PENDING
    assert call(factory.device, "resume").status == DONE
    failed = [each["event"] for each in factory.gateway.unique_events() if not each["event"]["success"]]
    (details,) = [each["details"] for each in failed]
    host = factory.device.est_url.split("/")[2]
    assert details == f"EST server {host}: POST /simplereenroll: it asks to come back in 3600 s"


# /cacerts


def test_a_rotation_continues_without_cacerts_of_a_busy_server(files):
    files.device.write_request("certs-1")
    files.est.faults.add("GET", "/cacerts", times=None, status=503)
    limits = Limits(total=3.0, connect=1.0, read=0.4, retry_delays=(30.0,))
    assert call(files.device, limits=limits).status == SWITCHED


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
        # The gateway is told nothing; its files may have been looked at meanwhile.
        assert set(factory.gateway.calls()) <= {("POST", "/events"), ("GET", "/config-device")}


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


@pytest.mark.parametrize("status", [204, 201, 302, 400, 403, 404, 500, 501, 503])
@pytest.mark.parametrize("later", [{}, {"Retry-After": "3600"}], ids=["", "asked to come back"])
def test_a_rotation_continues_without_cacerts_if_their_status_is_not_200(factory, status, later):
    headers = later | ({"Location": "https://elsewhere.example/"} if status == 302 else {})
    factory.est.faults.add("GET", "/cacerts", times=None, status=status, headers=headers)
    rotates(factory)


@pytest.mark.parametrize("path", ["/cacerts", "/csrattrs"])
def test_a_page_in_the_place_of_what_is_optional_is_none(factory, path):
    factory.device.write_request("certs-page", est_csrattrs="yes")
    factory.est.faults.add("GET", path, times=None, status=200, body="<html>Welcome</html>")
    assert call(factory.device).status == SWITCHED


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


@pytest.mark.parametrize("status", [401, 404, 500, 501, 503])
def test_a_refused_csr_is_what_is_reported_where_csrattrs_cannot_be_had(factory, status):
    factory.est.faults.add("POST", "/simplereenroll", times=None, status=400, body="policy 17 says no")
    factory.est.faults.add("GET", "/csrattrs", times=None, status=status, body="nor this")
    outcome = call(factory.device)
    assert outcome.status == REFUSED
    assert "policy 17 says no" in outcome.said


def test_csrattrs_that_end_as_texts_do_in_c_are_read(factory):
    path = factory.device.request_file
    path.write_text(path.read_text() + "EST_CSRATTRS=yes\n")
    der = seq(attribute(EXTENSION_REQUEST, seq(extension(KEY_USAGE, USAGE))))
    body = base64.encodebytes(der) + b"\0"
    factory.est.faults.add("GET", "/csrattrs", status=200, body=body, headers={"Content-Type": "application/csrattrs"})
    factory.est.lenient = True
    rotates(factory)
    csr = x509.load_der_x509_csr(base64.b64decode(enrolments(factory)[0].body))
    assert csr.extensions.get_extension_for_class(x509.KeyUsage).value.key_agreement


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
    assert "see /csrattrs; also" in outcome.said  # the server's own words are not lost


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


@pytest.mark.parametrize(
    "scheme",
    [
        'Basic realm="est"',
        'Digest realm="est", nonce="1"',
        "basic",
        'Negotiate, Basic realm="x"',
        'Bearer realm="a, b",Digest realm="x"',
    ],
)
def test_a_server_that_wants_a_password_is_told_apart(factory, scheme):
    factory.est.faults.add("POST", "/simplereenroll", times=None, status=401, headers={"WWW-Authenticate": scheme})
    outcome = call(factory.device)
    assert outcome.status == REFUSED
    assert "client certificate authentication" in outcome.said


@pytest.mark.parametrize("headers", [{}, {"WWW-Authenticate": "Negotiate"}, {"WWW-Authenticate": 'Bearer realm="x"'}])
def test_a_server_that_does_not_take_the_certificate_for_a_login_is_said_so(factory, headers):
    factory.est.faults.add("POST", "/simplereenroll", times=None, status=401, headers=headers, body="who are you?")
    outcome = call(factory.device)
    assert outcome.status == REFUSED
    assert "because the server does not recognise this device" in outcome.said
    assert outcome.said.endswith("HTTP 401: who are you?")


def test_a_redirect_to_an_address_with_a_password_in_it_is_refused(factory):
    url = factory.device.est_url.replace("https://", "https://name:secret@") + "/simplereenroll"
    factory.est.faults.add("POST", "/simplereenroll", times=None, status=308, headers={"Location": url})
    outcome = call(factory.device)
    assert outcome.status == REFUSED
    assert "secret" not in outcome.said
    assert all("Authorization" not in each.headers for each in factory.est.requests)


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
