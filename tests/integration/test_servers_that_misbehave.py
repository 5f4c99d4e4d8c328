"""Server x request x misbehaviour: how a rotation ends, and that the device is whole however it does."""

import threading
from dataclasses import replace

import pytest

from tests.crash.invariants import broken_invariants
from tests.simulators.factory import running_factory
from tests.simulators.issuing import MISISSUED

from .in_process import LIMITS, call

DONE, PENDING, REFUSED, SWITCHED = 0, 75, 78, 123
ID = "certs-fault"

REQUESTS = {
    "enrol": ("est", "POST", "/simplereenroll"),
    "announce": ("gateway", "PATCH", "/device"),
    "fetch files": ("gateway", "GET", "/config-device"),
    "store files": ("gateway", "PATCH", "/config"),
}
PASSING = {
    "500": {"status": 500},
    "502": {"status": 502, "body": "bad gateway"},
    "503, come back": {"status": 503, "headers": {"Retry-After": "0"}},
    "429": {"status": 429},
    "dropped before the work": {"drop": "before"},
    "dropped after the work": {"drop": "after"},
    "reset": {"reset": True},
    "answer cut short": {"cut": 0},
    "says nothing": {"hang": 1.0},
    "answer lost to an error": {"status": 504, "work": True},
}
USABLE = {"extra usages", "added SAN"}
FINAL = (400, 401, 403, 404, 405)


@pytest.fixture
def factory(tmp_path):
    with running_factory(tmp_path / "device", "file") as running:
        running.device.write_request(ID)
        yield running


@pytest.mark.parametrize("request_name", REQUESTS)
@pytest.mark.parametrize("what", PASSING)
def test_what_passes_is_tried_again_within_the_call(factory, request_name, what):
    server, method, path = REQUESTS[request_name]
    getattr(factory, server).faults.add(method, path, times=2, **PASSING[what])
    outcome = call(factory.device)
    assert (outcome.status, outcome.said) == (SWITCHED, "")
    assert call(factory.device).status == DONE
    assert broken_invariants(factory, ID, completed=True) == []


@pytest.mark.parametrize("request_name", REQUESTS)
@pytest.mark.parametrize("what", PASSING)
def test_what_lasts_leaves_a_rotation_pending_that_goes_on_later(factory, request_name, what):
    server, method, path = REQUESTS[request_name]
    faults = getattr(factory, server).faults
    faults.add(method, path, times=None, **PASSING[what])
    identity = factory.device.current_identity()
    outcome = call(factory.device)
    assert outcome.status == PENDING
    assert outcome.said
    assert factory.device.current_identity() == identity
    csrs = list(factory.est.csrs)
    faults.clear()
    assert call(factory.device, "resume").status == DONE
    assert set(factory.est.csrs) >= set(csrs)
    assert len(set(factory.est.csrs)) == 1
    assert broken_invariants(factory, ID, completed=True) == []


@pytest.mark.parametrize("request_name", REQUESTS)
@pytest.mark.parametrize("status", FINAL)
def test_a_final_answer_ends_the_rotation_with_the_servers_own_words(factory, request_name, status):
    server, method, path = REQUESTS[request_name]
    words = "because of \x1b[31m this " + "x" * 2000
    getattr(factory, server).faults.add(method, path, times=None, status=status, body=words)
    identity = factory.device.current_identity()
    outcome = call(factory.device)
    assert outcome.status == REFUSED
    assert "\x1b" not in outcome.said
    assert len(outcome.said) < 800
    assert factory.device.current_identity() == identity
    names = factory.gateway.event_names(ID)
    assert names[-1] == "CertRotationCompleted failed"
    assert names[-2].endswith(" failed")
    if not (request_name == "announce" and status in (404, 405)):
        assert "because of" in outcome.said
    getattr(factory, server).faults.clear()
    assert call(factory.device).status == SWITCHED
    assert call(factory.device).status == DONE
    assert broken_invariants(factory, ID, completed=True) == []


def test_a_gateway_without_rotation_is_named_before_anything_is_switched(factory):
    factory.gateway.supports_rotation = False
    outcome = call(factory.device)
    assert outcome.status == REFUSED
    assert "does not support key rotation" in outcome.said
    assert len(factory.device.private_key_files()) == 1
    assert not (factory.device.storage / "renew-client-cert/rotation.json").exists()


@pytest.mark.parametrize("kind", MISISSUED)
def test_what_the_est_server_issues_is_used_only_if_it_is_right(tmp_path, kind):
    with running_factory(tmp_path / "device", "file", san=["device-1.example"]) as factory:
        factory.device.write_request(ID)
        factory.est.misissue = kind
        identity = factory.device.current_identity()
        outcome = call(factory.device)
        if kind in USABLE:
            assert outcome.status == SWITCHED, outcome.said
            return
        if kind == "slightly ahead":  # refused by servers until it begins, and by nobody from then on
            assert outcome.status == PENDING
            assert "valid from" in outcome.said
            return
        assert outcome.status == REFUSED, kind
        assert factory.device.current_identity() == identity
        assert factory.gateway.next_pubkey is None
        assert len(factory.device.private_key_files()) == 1
        assert factory.gateway.event_names(ID)[1:] == [
            "Generate new certificate failed",
            "CertRotationCompleted failed",
        ]


@pytest.mark.parametrize(
    "answer",
    [{"raw_answer": b""}, {"raw_answer": b"!!!"}, {"raw_answer": b"MIIB"}, {"leave_out_issued": True}],
    ids=["nothing", "not base64", "not PKCS#7", "no certificate"],
)
def test_an_answer_without_the_certificate_is_refused(factory, answer):
    for name, value in answer.items():
        setattr(factory.est, name, value)
    assert call(factory.device).status == REFUSED
    assert factory.gateway.next_pubkey is None


def test_an_answer_of_64_megabytes_is_not_read(factory):
    factory.est.faults.add("POST", "/simplereenroll", times=None, huge=64_000_000)
    outcome = call(factory.device, limits=replace(LIMITS, read=10.0, total=30.0))
    assert outcome.status == REFUSED
    assert "1000000 bytes" in outcome.said


@pytest.mark.parametrize("keys", ["file", "token"])
@pytest.mark.parametrize("how", ["alert", 401, 403])
def test_a_new_certificate_that_the_gateway_refuses_is_rolled_back(tmp_path, keys, how):
    with running_factory(tmp_path / "device", keys, gateway={"refuse_new_certificate": how}) as factory:
        factory.device.write_request(ID)
        outcome = call(factory.device)
        assert outcome.status == REFUSED
        assert "rolled back" in outcome.said
        assert broken_invariants(factory, ID, completed=False) == []
        factory.gateway.refuse_new_certificate = None
        assert call(factory.device).status == SWITCHED
        assert call(factory.device).status == DONE
        assert broken_invariants(factory, ID, completed=True) == []


def test_a_gateway_that_cannot_be_reached_after_the_switch_is_no_refusal(factory):
    factory.gateway.faults.add("POST", "/events", times=None, status=503)
    outcome = call(factory.device)
    assert outcome.status == SWITCHED
    new = factory.device.current_identity()
    assert new.public_key != factory.gateway.current
    factory.gateway.faults.clear()
    assert call(factory.device, "resume").status == DONE
    assert factory.device.current_identity() == new
    assert broken_invariants(factory, ID, completed=True) == []


def test_a_gateway_that_refuses_both_certificates_leaves_the_device_trying(factory):
    factory.gateway.refuse_new_certificate = 403
    factory.gateway.faults.add("GET", "/config-device", skip=1, times=None, status=403)
    outcome = call(factory.device)
    assert outcome.status == SWITCHED
    factory.gateway.faults.clear()
    factory.gateway.refuse_new_certificate = None
    assert call(factory.device, "resume").status == DONE
    assert broken_invariants(factory, ID, completed=True) == []


# Another ROTATIONID, the file removed, ESTSERVER corrected


@pytest.mark.parametrize("request_name", REQUESTS)
def test_a_new_rotation_that_arrives_in_the_middle(factory, request_name):
    server, method, path = REQUESTS[request_name]
    faults = getattr(factory, server).faults
    faults.add(method, path, times=None, status=500)
    assert call(factory.device).status == PENDING
    faults.clear()
    factory.device.write_request("certs-second")
    assert call(factory.device).status == SWITCHED
    assert call(factory.device).status == DONE
    dropped = request_name in {"enrol", "announce"}
    ends = [each["event"]["success"] for each in factory.gateway.completed(ID)]
    assert ends == [not dropped]
    assert broken_invariants(factory, "certs-second", completed=True) == []


def test_a_new_rotation_waits_for_one_that_cannot_go_on_and_then_runs(factory):
    factory.gateway.faults.add("PATCH", "/config", times=None, status=500)
    assert call(factory.device).status == PENDING
    factory.device.write_request("certs-second")
    assert call(factory.device).status == PENDING
    factory.gateway.faults.clear()
    assert call(factory.device, "resume").status == DONE
    for rotation in (ID, "certs-second"):
        assert [each["event"]["success"] for each in factory.gateway.completed(rotation)] == [True]
    assert broken_invariants(factory, "certs-second", completed=True) == []


@pytest.mark.parametrize("request_name", REQUESTS)
def test_a_request_that_is_withdrawn_in_the_middle(factory, request_name):
    server, method, path = REQUESTS[request_name]
    faults = getattr(factory, server).faults
    faults.add(method, path, times=None, status=500)
    assert call(factory.device).status == PENDING
    faults.clear()
    factory.device.request_file.unlink()
    outcome = call(factory.device, "withdraw")
    if request_name in {"enrol", "announce"}:
        assert outcome.status == DONE
        assert [each["event"]["success"] for each in factory.gateway.completed(ID)] == [False]
        assert len(factory.device.private_key_files()) == 1
    else:
        assert outcome.status == SWITCHED
        assert call(factory.device, "resume").status == DONE
        assert broken_invariants(factory, ID, completed=True) == []


def test_a_corrected_est_server_is_used_under_the_same_id(factory):
    right = factory.device.est_url
    factory.device.write_request(ID, estserver=right.replace("est", "elsewhere"))
    factory.est.faults.add("POST", "*", times=1, status=500)
    assert call(factory.device).status in (PENDING, REFUSED)
    factory.device.write_request(ID)
    assert call(factory.device).status == SWITCHED
    assert call(factory.device).status == DONE
    assert broken_invariants(factory, ID, completed=True) == []


def test_an_event_that_hangs_does_not_hold_up_the_rotation(factory):
    release = threading.Event()
    factory.gateway.faults.add("POST", "/events", times=1, hang=release)
    seen = []

    def watch():
        for _ in range(400):
            if ("PATCH", "/config") in factory.gateway.calls():
                seen.append(True)
                break
            threading.Event().wait(0.01)
        release.set()

    watcher = threading.Thread(target=watch)
    watcher.start()
    outcome = call(factory.device, limits=replace(LIMITS, read=10.0, total=30.0))
    watcher.join()
    assert seen
    assert outcome.status == SWITCHED
    assert call(factory.device).status == DONE
    assert broken_invariants(factory, ID, completed=True) == []
