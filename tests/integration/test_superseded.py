"""What is asked changes in the middle: another ROTATIONID, the same again, none any more, another ESTSERVER.

The places in which a rotation is stopped, in their order, and what becomes of it when another one is asked for:

| stopped at | the gateway knows | the first rotation |
| --- | --- | --- |
| enrol, trial | nothing | is dropped |
| announce | perhaps the next key | is finished |
| fetch files, store files | the next key | is finished |
| prove | sota.toml names the new key | is finished |
"""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pkcs11 import ObjectClass

from handler.journal.pending import read_pending
from tests import softhsm
from tests.invariants import broken_files, broken_invariants, secrets_in_journal
from tests.simulators.factory import running_factory
from tests.simulators.pki import Draft, certificate_pem

from .in_process import call

DONE, PENDING, REFUSED, SWITCHED = 0, 75, 78, 123
FIRST, SECOND = "certs-first", "certs-second"

PLACES = {
    "enrol": ("est", "POST", "/simplereenroll"),
    "trial": ("est", "GET", "/cacerts"),
    "announce": ("gateway", "PATCH", "/device"),
    "fetch files": ("gateway", "GET", "/config-device"),
    "store files": ("gateway", "PATCH", "/config"),
    "prove": ("gateway", "POST", "/events"),
}
DROPPED = ("enrol", "trial")
FINISHED = tuple(set(PLACES) - set(DROPPED))
REFUSED_LATER = tuple(set(FINISHED) - {"announce"})


@pytest.fixture(params=["file", "token"])
def factory(request, tmp_path):
    with running_factory(tmp_path / "device", request.param) as running:
        running.device.write_request(FIRST)
        yield running


@pytest.fixture
def files(tmp_path):
    with running_factory(tmp_path / "device", "file") as running:
        running.device.write_request(FIRST)
        yield running


def stop(factory, place, *, keep=False):
    """Let the first rotation come so far; `keep` the fault that stopped it."""
    server, method, path = PLACES[place]
    faults = getattr(factory, server).faults
    # Any answer to the trial is good enough. The files are looked at once before.
    how = {"drop": "before"} if place == "trial" else {"status": 500, "skip": int(place == "fetch files")}
    faults.add(method, path, times=None, **how)
    assert call(factory.device).status == (SWITCHED if place == "prove" else PENDING)
    assert secrets_in_journal(factory.device) == []
    if not keep:
        faults.clear()


def ends(factory, rotation_id):
    return [each["event"]["success"] for each in factory.gateway.completed(rotation_id)]


def finish(factory):
    """Call as often as fioconfig and a boot do; the last call has nothing left to do."""
    statuses = [call(factory.device).status for _ in range(3)]
    # A call that has switched the key leaves a second rotation to the next one.
    assert set(statuses[:2]) <= {SWITCHED, DONE}
    assert (statuses[2], call(factory.device, "resume").status) == (DONE, DONE)


# Another ROTATIONID


def test_fioconfig_is_ended_before_a_second_rotation_takes_the_key_that_it_knows(files):
    """Killed alone, it would store a configuration for the key that it has loaded: that has to be there still."""
    files.device.write_request("certs-before")
    assert [call(files.device).status, call(files.device).status] == [SWITCHED, DONE]
    known = files.device.private_key_files()
    files.device.write_request(FIRST)
    stop(files, "store files")
    files.device.write_request(SECOND)
    assert call(files.device).status == SWITCHED
    assert set(known) <= set(files.device.private_key_files())
    assert ends(files, SECOND) == []
    assert call(files.device, "unattended").status == DONE
    assert ends(files, SECOND) == [True]
    assert broken_invariants(files, SECOND, completed=True) == []


def test_a_request_behind_a_refused_rotation_is_not_looked_at_again_and_again(files):
    stop(files, "store files", keep=True)
    files.gateway.faults.clear()
    files.gateway.faults.add("PATCH", "/config", times=None, status=400)
    files.gateway.faults.add("GET", "/config-device", skip=2, times=None, status=401)  # nor is there a way back
    files.device.write_request(SECOND)
    assert call(files.device).status == REFUSED
    assert call(files.device, "unattended").status == DONE
    pending = read_pending(files.device.storage)
    assert (pending.rotation_id, pending.refused is not None, pending.due) == (FIRST, True, False)
    files.gateway.faults.clear()
    assert call(files.device, "resume").status == DONE
    assert [ends(files, each) for each in (FIRST, SECOND)] == [[False, True], [True]]


@pytest.mark.parametrize("place", PLACES)
def test_another_rotation_that_arrives_in_the_middle_is_done_in_the_end(factory, place):
    stop(factory, place)
    factory.device.write_request(SECOND)
    finish(factory)
    assert ends(factory, FIRST) == [place not in DROPPED]
    if place in DROPPED:
        (end,) = factory.gateway.completed(FIRST)
        assert end["event"]["details"] == f"superseded by {SECOND}"
    assert broken_invariants(factory, SECOND, completed=True) == []


@pytest.mark.parametrize("place", PLACES)
def test_another_rotation_that_arrives_while_the_first_cannot_go_on_is_not_forgotten(files, place):
    stop(files, place, keep=True)
    files.device.write_request(SECOND)
    call(files.device)
    files.device.request_file.unlink()  # the tmpfs is empty after a boot: what is asked stands in the journal
    for server in (files.est, files.gateway):
        server.faults.clear()
    assert call(files.device, "resume").status == DONE
    assert ends(files, FIRST) == [place not in DROPPED]
    assert broken_invariants(files, SECOND, completed=True) == []


def test_a_third_rotation_takes_the_place_of_a_second_that_has_not_begun(files):
    stop(files, "store files", keep=True)
    for rotation in (SECOND, "certs-third"):
        files.device.write_request(rotation)
        assert call(files.device).status == PENDING
    files.gateway.faults.clear()
    finish(files)
    assert ends(files, FIRST) == [True]
    assert files.gateway.event_names(SECOND) == []
    assert broken_invariants(files, "certs-third", completed=True) == []


def test_going_back_to_the_first_id_drops_the_second(files):
    stop(files, "enrol", keep=True)
    for rotation in (SECOND, FIRST):
        files.device.write_request(rotation)
        assert call(files.device).status == PENDING
    files.est.faults.clear()
    finish(files)
    assert ends(files, SECOND) == [False]
    assert ends(files, FIRST) == [False, True]  # dropped for the second one, then asked for again


def test_going_back_to_the_first_id_forgets_a_second_that_has_not_begun(files):
    stop(files, "store files", keep=True)
    for rotation in (SECOND, FIRST):
        files.device.write_request(rotation)
        assert call(files.device).status == PENDING
    files.gateway.faults.clear()
    finish(files)
    assert (ends(files, FIRST), ends(files, SECOND)) == ([True], [])


@pytest.mark.parametrize("place", sorted(DROPPED))
def test_a_rotation_that_is_dropped_leaves_no_key_behind(factory, place):
    stop(factory, place)
    factory.device.write_request(SECOND)
    server, method, path = PLACES["enrol"]
    getattr(factory, server).faults.add(method, path, times=None, status=403)
    assert call(factory.device).status == REFUSED
    assert ends(factory, SECOND) == [False]
    if factory.device.token:
        assert sorted(each.id for each in factory.device.token_objects()) == ["01", "01", "03"]
    assert len(factory.device.private_key_files()) == (0 if factory.device.token else 1)


@pytest.mark.parametrize("place", sorted(REFUSED_LATER))
def test_a_rotation_that_was_refused_after_the_gateway_knew_is_finished_before_another(factory, place):
    if place == "prove":
        return stop_and_finish_proof(factory)
    server, method, path = PLACES[place]
    faults = getattr(factory, server).faults
    faults.add(method, path, times=None, status=403, skip=int(place == "fetch files"))
    assert call(factory.device).status == REFUSED
    faults.clear()
    factory.device.write_request(SECOND)
    finish(factory)
    # It failed, was said to have failed, and then was done after all: the last word is the true one.
    assert ends(factory, FIRST) == [False, True]
    assert broken_invariants(factory, SECOND, completed=True) == []
    return None


def stop_and_finish_proof(factory):
    factory.gateway.refuse_new_certificate = 403
    assert call(factory.device).status == REFUSED
    factory.gateway.refuse_new_certificate = None
    factory.device.write_request(SECOND)
    finish(factory)
    assert ends(factory, FIRST) == [False]
    assert broken_invariants(factory, SECOND, completed=True) == []


@pytest.mark.parametrize("status", [400, 403])
def test_a_rotation_that_is_refused_again_goes_back_for_the_next_one(factory, status):
    """Else nobody could get this device out of a refusal without going there."""
    stop(factory, "store files")
    factory.gateway.faults.add("PATCH", "/config", times=1 + (status == 400), status=status)
    factory.device.write_request(SECOND)
    finish(factory)
    assert ends(factory, FIRST) == [False, False]
    details = [each["event"]["details"] for each in factory.gateway.completed(FIRST)]
    assert f"HTTP {status}" in details[0]
    assert details[1].startswith(f"rolled back, superseded by {SECOND}: ")
    assert broken_invariants(factory, SECOND, completed=True) == []


def test_a_rotation_that_is_refused_again_half_way_goes_back_whole(factory):
    """Its files are for the new key already: they are moved back before that key goes."""
    stop(factory, "store files")
    factory.gateway.faults.add("PATCH", "/config", status=400, work=True)
    factory.gateway.faults.add("GET", "/config-device", skip=1, status=404)
    factory.device.write_request(SECOND)
    finish(factory)
    assert (ends(factory, FIRST), ends(factory, SECOND)) == ([False, False], [True])
    assert len(factory.gateway.updates) == 3
    assert broken_invariants(factory, SECOND, completed=True) == []


def test_a_refused_rotation_goes_back_later_where_the_gateway_cannot_be_asked(files):
    stop(files, "store files")
    files.gateway.faults.add("PATCH", "/config", times=2, status=400)
    files.gateway.faults.add("GET", "/config-device", skip=2, times=None, status=503)
    files.device.write_request(SECOND)
    assert call(files.device).status == PENDING
    files.gateway.faults.clear()
    assert read_pending(files.device.storage).due
    assert call(files.device, "unattended").status == DONE
    assert ends(files, SECOND) == [True]
    assert broken_invariants(files, SECOND, completed=True) == []


def test_a_rotation_whose_new_key_got_lost_holds_up_no_other(factory):
    stop(factory, "fetch files")
    new = json.loads((factory.device.storage / "renew-client-cert/rotation.json").read_bytes())["rotation"]["new"]
    if factory.device.token:
        softhsm.remove_objects(factory.device.token, 7, ObjectClass.PRIVATE_KEY)
    else:
        Path(new["key"]).unlink()
    factory.device.write_request(SECOND)
    finish(factory)
    assert ends(factory, SECOND) == [True]
    assert broken_invariants(factory, SECOND, completed=True) == []


# A gateway that has forgotten


@pytest.mark.parametrize("place", ["fetch files", "store files"])
def test_a_gateway_that_was_restored_from_a_backup_is_told_of_the_new_key_again(files, place):
    stop(files, place)
    files.gateway.next_pubkey = None
    finish(files)
    assert ends(files, FIRST) == [True]
    assert broken_invariants(files, FIRST, completed=True) == []


def test_a_gateway_that_does_not_want_to_know_either_is_told_of_in_its_first_words(files):
    stop(files, "store files")
    files.gateway.faults.add("PATCH", "/config", times=None, status=400, body="over quota")
    files.gateway.faults.add("PATCH", "/device", times=None, status=404)
    refused = call(files.device)
    assert (refused.status, "over quota" in refused.said) == (REFUSED, True)


def test_a_gateway_that_says_yes_and_does_nothing_is_told_of_the_next_one_too(files):
    files.gateway.faults.add("PATCH", "/device", times=None, status=200, body="{}")
    assert call(files.device).status == REFUSED
    files.device.write_request(SECOND)
    assert call(files.device).status == REFUSED
    assert (ends(files, FIRST)[-1], ends(files, SECOND)) == (False, [False])
    files.gateway.faults.clear()
    files.device.write_request("certs-third")
    finish(files)
    assert broken_invariants(files, "certs-third", completed=True) == []


# The same one again


@pytest.mark.parametrize("place", PLACES)
def test_the_same_rotation_again_goes_on_where_it_was(factory, place):
    stop(factory, place, keep=True)
    second = call(factory.device)
    assert second.status == PENDING
    for server in (factory.est, factory.gateway):
        server.faults.clear()
    finish(factory)
    asked = [each.body for each in factory.est.requests if each.path.endswith("/simplereenroll")]
    assert len(set(asked)) == 1
    assert ends(factory, FIRST) == [True]
    assert broken_invariants(factory, FIRST, completed=True) == []


def test_a_rotation_that_is_complete_is_not_done_again(factory):
    finish(factory)
    asked = len(factory.est.requests) + len(factory.gateway.requests)
    before = factory.device.snapshot()
    assert call(factory.device).status == DONE
    assert factory.device.snapshot() == before
    assert len(factory.est.requests) + len(factory.gateway.requests) == asked


# The file removed


@pytest.mark.parametrize("place", PLACES)
def test_a_request_that_is_removed_is_dropped_or_finished(factory, place):
    stop(factory, place)
    factory.device.request_file.unlink()
    outcome = call(factory.device, "withdraw")
    if place in DROPPED:
        assert outcome.status == DONE
        assert ends(factory, FIRST) == [False]
        assert not (factory.device.storage / "renew-client-cert/rotation.json").exists()
    else:
        assert outcome.status in (SWITCHED, DONE)
    assert call(factory.device, "resume").status == DONE
    if place not in DROPPED:
        assert broken_invariants(factory, FIRST, completed=True) == []
    assert call(factory.device, "withdraw").status == DONE


def test_a_request_that_waits_is_forgotten_when_it_is_removed(files):
    stop(files, "store files", keep=True)
    files.device.write_request(SECOND)
    assert call(files.device).status == PENDING
    files.device.request_file.unlink()
    assert call(files.device, "withdraw").status == PENDING
    files.gateway.faults.clear()
    assert call(files.device, "resume").status == DONE
    assert files.gateway.event_names(SECOND) == []
    assert broken_invariants(files, FIRST, completed=True) == []


# A gateway that may know the new key already


def announced_without_an_answer(factory):
    """Have the gateway locked to the new key while the device does not know that."""
    factory.gateway.faults.add("PATCH", "/device", times=None, drop="after")
    assert call(factory.device).status == PENDING
    assert factory.gateway.next_pubkey is not None
    factory.gateway.faults.clear()


@pytest.mark.parametrize("refusal", ["alert", 403])
def test_an_answer_that_was_lost_in_the_same_call_counts_too(factory, refusal):
    """The request is sent again within the call, and refused then."""
    fault = factory.gateway.faults.add("PATCH", "/device", drop="after")
    old = factory.device.current_identity()
    if refusal == "alert":
        announce = factory.gateway.announce_key

        def announced(request):
            factory.gateway.faults.refuse_certificate(old.certificate)
            return announce(request)

        factory.gateway.announce_key = announced
    else:
        factory.gateway.faults.add("PATCH", "/device", status=403)
    assert call(factory.device).status == REFUSED
    assert fault.used
    assert factory.gateway.next_pubkey is not None
    assert read_pending(factory.device.storage).refused
    assert call(factory.device).status == SWITCHED
    assert call(factory.device, "resume").status == DONE
    assert factory.gateway.current == factory.device.current_identity().public_key != old.public_key
    assert broken_files(factory) == []


def test_a_gateway_that_may_be_locked_is_not_left_so_when_the_request_is_removed(factory):
    announced_without_an_answer(factory)
    factory.device.request_file.unlink()
    assert call(factory.device, "withdraw").status == SWITCHED
    assert call(factory.device, "resume").status == DONE
    assert ends(factory, FIRST) == [True]
    assert broken_invariants(factory, FIRST, completed=True) == []


def without_that_field(factory):
    """Have the journal look as one of an earlier version, which did not write down what it was about to do."""
    path = factory.device.storage / "renew-client-cert/rotation.json"
    journal = json.loads(path.read_bytes())
    del journal["rotation"]["announced"]
    path.write_text(json.dumps(journal))


@pytest.mark.parametrize("asked", [FIRST, SECOND])
@pytest.mark.parametrize("earlier", [False, True])
def test_the_key_that_the_gateway_may_know_is_no_more_lost_to_another_rotation(files, asked, earlier):
    announced_without_an_answer(files)
    if earlier:
        without_that_field(files)
    files.gateway.faults.refuse_certificate(files.device.current_identity().certificate)
    files.device.write_request(asked)
    assert call(files.device).status == SWITCHED
    assert call(files.device, "resume").status == DONE
    assert ends(files, FIRST) == [True]
    assert broken_files(files) == []
    assert files.gateway.current == files.device.current_identity().public_key


def test_a_refusal_of_something_else_leaves_the_key_that_the_gateway_may_know(files):
    announced_without_an_answer(files)
    files.gateway.faults.add("GET", "/config-device", times=None, status=400)
    assert call(files.device).status == REFUSED
    assert read_pending(files.device.storage).refused
    files.gateway.faults.clear()
    assert call(files.device).status == SWITCHED
    assert call(files.device, "resume").status == DONE
    assert broken_invariants(files, FIRST, completed=True) == []


@pytest.mark.parametrize("place", ["announce", "enrol"])
def test_an_old_certificate_that_is_revoked_then_is_left_for_the_new_one_if_the_gateway_may_know_it(factory, place):
    """Dropped, the new key would be the only one that the gateway could still have taken."""
    if place == "announce":
        announced_without_an_answer(factory)
    else:
        stop(factory, place)
    old = factory.device.current_identity()
    factory.gateway.faults.refuse_certificate(old.certificate)
    outcome = call(factory.device)
    if place == "enrol":
        assert outcome.status == REFUSED
        assert factory.device.current_identity() == old
    else:
        assert outcome.status == SWITCHED
        assert call(factory.device, "resume").status == DONE
        assert ends(factory, FIRST) == [True]
        # Whether that step was done is not known, so it is not said to be.
        undone = "events were not delivered: ['Lock device configuration on server']"
        assert broken_invariants(factory, FIRST, completed=True) == [undone]


@pytest.mark.parametrize("status", [400, 404])
def test_a_gateway_that_says_no_in_the_end_is_not_locked(files, status):
    announced_without_an_answer(files)
    files.gateway.next_pubkey = None
    files.gateway.faults.add("PATCH", "/device", status=status)
    old = files.device.current_identity()
    assert call(files.device).status == REFUSED
    assert ends(files, FIRST) == [False]
    assert files.device.current_identity() == old
    assert broken_files(files) == []
    assert len(files.device.private_key_files()) == 1
    assert read_pending(files.device.storage) is None


def test_a_gateway_that_refuses_the_device_for_now_keeps_the_key_that_it_may_know(files):
    announced_without_an_answer(files)
    files.gateway.faults.add("PATCH", "/device", times=None, status=403)
    assert call(files.device).status == REFUSED
    assert call(files.device, "unattended").status == DONE
    pending = read_pending(files.device.storage)
    assert (pending.refused is None, pending.due) == (False, False)
    files.gateway.faults.clear()
    finish(files)
    assert ends(files, FIRST) == [False, True]
    assert broken_invariants(files, FIRST, completed=True) == []


# A new certificate that ends before it is used


@pytest.mark.parametrize("place", ["trial", "store files"])
def test_a_new_certificate_that_ended_while_the_rotation_was_pending_is_not_switched_to(factory, place):
    stop(factory, place)
    path = factory.device.storage / "renew-client-cert/rotation.json"
    journal = json.loads(path.read_bytes())
    issued, now = factory.est.issued[-1], datetime.now(UTC)
    ended = factory.pki.issue(
        Draft(
            public_key=issued.public_key(),
            subject=issued.subject,
            extensions=[(each.value, each.critical) for each in issued.extensions],
            issuer=factory.pki.device_ca,
            begins=now - timedelta(days=2),
            ends=now - timedelta(days=1),
        )
    )
    journal["rotation"]["certificate"] = certificate_pem(ended).decode()
    path.write_text(json.dumps(journal))
    finish(factory)
    assert len(set(factory.est.csrs)) == 1
    assert factory.device.current_identity().certificate == factory.est.issued[-1] != issued
    assert ends(factory, FIRST) == [True]
    again = "Generate new certificate was reported as done 2 times, under different ids"
    assert broken_invariants(factory, FIRST, completed=True) == [again] * (place != "trial")


# ESTSERVER corrected under the same ROTATIONID


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


def test_a_corrected_est_server_is_used_by_whoever_resumes(files):
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
