"""Another ROTATIONID is asked for in the middle of a rotation, or the same one again.

The places in which a rotation is stopped, in their order, and what becomes of it when another one is asked for:

| stopped at | the gateway knows | the first rotation |
| --- | --- | --- |
| enrol, trial | nothing | is dropped |
| announce | perhaps the next key | is finished |
| fetch files, store files | the next key | is finished |
| prove | sota.toml names the new key | is finished |
"""

from pathlib import Path

import pytest
from pkcs11 import ObjectClass

from handler.exit_status import DONE, PENDING, REFUSED, SWITCHED
from handler.journal.pending import read_pending
from tests import journal as journals
from tests import softhsm
from tests.invariants import broken_invariants

from .in_process import call
from .stopping import FIRST, PLACES, SECOND, ends, finish, stop

pytestmark = pytest.mark.requested(FIRST)
DROPPED = ("enrol", "trial")
FINISHED = tuple(set(PLACES) - set(DROPPED))
REFUSED_LATER = tuple(set(FINISHED) - {"announce"})


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
    """Otherwise this device could not leave a refusal without a visit."""
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


def test_a_refused_rotation_that_starts_again_is_left_to_the_daemon_where_the_token_is_missing(token):
    """Cut off between the refusal and the removal of its key."""
    device = token.device
    stop(token, "enrol")
    content = journals.read(device.storage)
    journals.write(device.storage, {**content, "rotation": {**content["rotation"], "refused": "HTTP 403"}})
    away = device.token.directory.rename(device.folder / "away")
    assert device.run().returncode == PENDING
    away.rename(device.token.directory)
    assert device.run("resume", "--unattended").returncode == DONE
    assert ends(token, FIRST) == [False, True]
    assert broken_invariants(token, FIRST, completed=True) == []


def test_a_rotation_whose_new_key_got_lost_holds_up_no_other(factory):
    stop(factory, "fetch files")
    new = journals.read(factory.device.storage)["rotation"]["new"]
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
