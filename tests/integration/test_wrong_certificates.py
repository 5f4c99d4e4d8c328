"""Whatever an EST server issues instead of the right certificate: refused in step 1, with what is wrong with it."""

import pytest

from handler.exit_status import DONE, PENDING, REFUSED, SWITCHED
from tests import journal as journals
from tests.invariants import broken_files, broken_invariants
from tests.simulators.factory import running_factory
from tests.simulators.pki import spki_pem

from .in_process import LIMITS, call

ID = "certs-bad"
SAN = ["device-1.example"]
HUGE = 64_000_000
PATIENT = LIMITS._replace(read=10.0, total=30.0)
"""A server that has to make 64 MB is slow on a busy machine."""

# What the person who looks after the EST server reads.
REFUSED_KINDS = {
    "other key": "is for the new key",
    "other subject": "has the Subject",
    "other SAN": "lacks device-1.example in its subjectAltName",
    "no SAN": "lacks device-1.example in its subjectAltName",
    "CA certificate": "one of a CA",
    "no digitalSignature": "digitalSignature",
    "no key usage": "digitalSignature",
    "no clientAuth": "clientAuth",
    "no extended key usage": "clientAuth",
    "expired": "ended on",
    "not yet valid": "begins on",
    "unknown issuer": "does not accept the certificate that it issued",
    "forged issuer": "does not accept the certificate that it issued",
}
USABLE_KINDS = ("extra usages", "added SAN", "other string type")
ANSWERS = {
    "empty": ({"raw_answer": b""}, "not base64 of a certs-only PKCS#7"),
    "not base64": ({"raw_answer": b"\x00\xff!!!"}, "not base64 of a certs-only PKCS#7"),
    "not PKCS#7": ({"raw_answer": b"MIIB"}, "not base64 of a certs-only PKCS#7"),
    "random text": ({"raw_answer": b"QUJD" * 1000}, "not base64 of a certs-only PKCS#7"),
    "no certificate": ({"leave_out_issued": True}, "certificate"),
}


@pytest.fixture(params=["file", "token"])
def factory(request, tmp_path):
    with running_factory(tmp_path / "device", request.param, san=SAN) as running:
        running.device.write_request(ID)
        yield running


@pytest.fixture
def files(tmp_path):
    with running_factory(tmp_path / "device", "file", san=SAN) as running:
        running.device.write_request(ID)
        yield running


def refused(factory, said):
    """Call, and find a refusal that says so, with everything but the report as it was."""
    device, gateway = factory.device, factory.gateway
    identity, objects = device.current_identity(), sorted(device.token_objects(), key=str)
    outcome = call(device, limits=PATIENT)
    assert outcome.status == REFUSED, outcome
    assert said in outcome.said
    assert device.current_identity() == identity
    assert sorted(device.token_objects(), key=str) == objects
    assert len(device.private_key_files()) == (0 if device.token else 1)
    # It is told nothing; its files may have been looked at meanwhile.
    assert set(gateway.calls()) - {("GET", "/config-device")} == {("POST", "/events")}
    assert {each.public_key for each in gateway.requests} == {identity.public_key}
    assert gateway.next_pubkey is None
    assert broken_files(factory) == []
    assert gateway.event_names(ID) == [
        "CertRotationStarted",
        "Generate new certificate failed",
        "CertRotationCompleted failed",
    ]
    details = [each["event"]["details"] for each in gateway.unique_events() if not each["event"]["success"]]
    assert all(said in each for each in details)
    assert not journals.path(device.storage).exists()


def rotates_after_all(factory):
    assert call(factory.device, limits=PATIENT).status == SWITCHED
    assert call(factory.device).status == DONE
    assert broken_invariants(factory, ID, completed=True) == []


@pytest.mark.parametrize("kind", REFUSED_KINDS)
def test_a_certificate_that_is_wrong_is_refused_with_what_is_wrong(factory, kind):
    factory.est.misissue = kind
    refused(factory, REFUSED_KINDS[kind])


def test_a_server_that_issues_the_right_one_at_last_is_used(factory):
    factory.est.misissue = "other subject"
    assert call(factory.device).status == REFUSED
    factory.est.misissue = None
    rotates_after_all(factory)


@pytest.mark.parametrize("kind", USABLE_KINDS)
def test_a_certificate_with_more_than_was_asked_for_is_used(factory, kind):
    factory.est.misissue = kind
    rotates_after_all(factory)


@pytest.mark.parametrize("answer", ANSWERS)
def test_an_answer_that_cannot_be_read_is_asked_for_again_later_with_the_same_csr(factory, answer):
    fields, said = ANSWERS[answer]
    for name, value in fields.items():
        setattr(factory.est, name, value)
    outcome = call(factory.device, limits=PATIENT)
    assert (outcome.status, said in outcome.said) == (PENDING, True), outcome
    assert "sending the same CSR again in 5 minutes" in outcome.said
    assert call(factory.device).status == PENDING
    assert call(factory.device, "unattended").status == PENDING
    assert len(factory.est.csrs) == 1  # not contacting it before then
    assert call(factory.device, "resume").status == PENDING  # but for a person
    assert call(factory.device, "resume").status == REFUSED
    assert len(factory.est.csrs) == 3
    assert len(set(factory.est.csrs)) == 1
    assert not journals.path(factory.device.storage).exists()
    for name in fields:
        setattr(factory.est, name, {"leave_out_issued": False}.get(name))
    rotates_after_all(factory)


def test_an_answer_that_can_be_read_again_ends_the_wait(files):
    files.est.raw_answer = b"QUJD"
    assert call(files.device).status == PENDING
    files.est.raw_answer = None
    assert call(files.device, "resume").status == DONE
    assert len(set(files.est.csrs)) == 1
    assert broken_invariants(files, ID, completed=True) == []


@pytest.mark.parametrize("content_type", ["application/json", "text/html", ""])
def test_a_certificate_is_taken_whatever_its_type_is_called(files, content_type):
    files.est.content_type = content_type
    rotates_after_all(files)


def test_an_answer_of_64_megabytes_is_refused_and_not_read_to_its_end(factory):
    factory.est.faults.add("POST", "/simplereenroll", times=None, huge=HUGE)
    refused(factory, "more than 2000000 bytes")


def test_the_right_certificate_among_others_is_found(files):
    other = files.pki.device_certificate(files.pki.root.certificate.public_key())
    files.est.before, files.est.after = [files.pki.root.certificate, other], [files.pki.device_ca.certificate]
    rotates_after_all(files)


def test_a_forged_one_is_refused_before_the_trial_where_its_issuer_is_in_the_answer(files):
    files.est.misissue = "forged issuer"
    files.est.after = [files.pki.device_ca.certificate]
    refused(files, "is not signed by the key of its issuer")
    assert [each.method for each in files.est.requests] == ["POST"]


# What /cacerts answers beside it proves nothing, and stops nothing


@pytest.mark.parametrize(
    "fault", [{"huge": HUGE}, {"status": 200, "body": "garbage"}, {"status": 404}, {"status": 403}]
)
def test_a_rotation_continues_without_unavailable_ca_certificates(files, fault):
    files.est.faults.add("GET", "/cacerts", times=None, **fault)
    rotates_after_all(files)


@pytest.mark.parametrize("keys", ["file", "token"])
def test_a_certificate_that_the_est_server_itself_does_not_take_is_refused(tmp_path, keys):
    """The trial: a handshake with the new certificate, where it commits to nothing."""
    with running_factory(tmp_path / "device", keys, san=SAN) as factory:
        factory.device.write_request(ID)

        def revoke_at_once(draft, _pki):
            factory.est.faults.refuse_certificate(spki_pem(draft.public_key))

        factory.est.misissue = revoke_at_once
        refused(factory, "does not accept the certificate that it issued")


# Clocks


def test_a_certificate_that_begins_in_two_minutes_is_waited_for(factory):
    factory.est.misissue = "slightly ahead"
    identity = factory.device.current_identity()
    outcome = call(factory.device)
    assert outcome.status == PENDING
    assert "valid from" in outcome.said
    assert factory.device.current_identity() == identity
    assert factory.gateway.next_pubkey is None


# As a process


@pytest.mark.parametrize("how", ["other key", "64 MB", "garbage"])
def test_a_refusal_is_one_line_for_a_person(files, how):
    if how == "64 MB":
        files.est.faults.add("POST", "/simplereenroll", times=None, huge=HUGE)
    elif how == "garbage":
        files.est.raw_answer = bytes(range(256)) * 40
    else:
        files.est.misissue = how
    done = files.device.run()
    assert done.returncode == (PENDING if how == "garbage" else REFUSED)
    assert "Traceback" not in done.stderr
    (line,) = [each for each in done.stderr.splitlines() if each.startswith("renew-client-cert:")]
    assert line.startswith(f"renew-client-cert: {'pending, not before ' if how == 'garbage' else 'refused: '}")
