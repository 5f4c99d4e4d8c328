"""Another ESTSERVER for a rotation that is pending."""

import json

import pytest

from handler.exit_status import DONE, PENDING, REFUSED
from tests.invariants import broken_invariants

from .in_process import call
from .stopping import FIRST, ends, finish, stop

pytestmark = pytest.mark.requested(FIRST)


def wrong_server(factory):
    """Name a place of the EST server that only ever fails."""
    return factory.device.est_url + "/wrong"


def asked_at_wrong(factory):
    return [each for each in factory.est.requests if "/wrong/" in each.path]


@pytest.mark.parametrize(("status", "how"), [(500, PENDING), (404, REFUSED), (403, REFUSED), (401, REFUSED)])
def test_a_corrected_est_server_is_asked_from_then_on(factory, status, how):
    factory.device.write_request(FIRST, estserver=wrong_server(factory))
    factory.est.faults.add("POST", "/wrong/simplereenroll", times=None, status=status)
    assert call(factory.device).status == how
    asked = asked_at_wrong(factory)
    assert asked
    factory.device.write_request(FIRST)
    finish(factory)
    assert asked_at_wrong(factory) == asked
    if how == PENDING:  # the same key and the same CSR, to the server that is right
        assert len({each.body for each in factory.est.requests if each.method == "POST"}) == 1
    assert broken_invariants(factory, FIRST, completed=True) == []


def test_a_corrected_est_server_is_not_left_alone_because_the_wrong_one_asked_for_it(files):
    files.device.write_request(FIRST, estserver=files.device.est_url)
    files.est.faults.add("POST", "/simplereenroll", times=None, status=503, headers={"Retry-After": "7200"})
    assert call(files.device).status == PENDING
    files.est.faults.clear()
    files.gateway.faults.add("GET", "/config-device", times=None, drop="before")
    files.device.write_request(FIRST, estserver=files.device.est_url.replace("127.0.0.1", "localhost"))
    assert call(files.device).status == PENDING  # cut off for another reason
    files.gateway.faults.clear()
    assert call(files.device, "unattended").status == DONE
    assert ends(files, FIRST) == [True]


def test_a_corrected_est_server_is_used_by_a_resume(files):
    files.device.write_request(FIRST, estserver="https://127.0.0.1:1/.well-known/est")
    refused = call(files.device)
    assert refused.status == PENDING
    assert "127.0.0.1:1" in refused.said
    files.device.write_request(FIRST)
    files.est.faults.add("POST", "/simplereenroll", times=None, status=503)
    assert call(files.device).status == PENDING
    files.est.faults.clear()
    files.device.request_file.unlink()
    assert call(files.device, "resume").status == DONE
    assert broken_invariants(files, FIRST, completed=True) == []


def test_an_est_server_that_is_corrected_too_late_changes_nothing(files):
    stop(files, "store files")
    files.device.write_request(FIRST, estserver=wrong_server(files))
    finish(files)
    assert asked_at_wrong(files) == []
    assert broken_invariants(files, FIRST, completed=True) == []


def test_the_corrected_est_server_is_in_the_completed_state(files):
    files.device.write_request(FIRST, estserver="https://127.0.0.1:1/.well-known/est")
    assert call(files.device).status == PENDING
    files.device.write_request(FIRST)
    finish(files)
    completed = json.loads((files.device.storage / "cert-rotation.state.completed").read_bytes())
    assert completed["EstServer"] == files.device.est_url
