"""A request is removed, an answer was lost, a certificate ends: a key that the gateway may know is kept."""

from datetime import UTC, datetime, timedelta

import pytest

from handler.exit_status import DONE, PENDING, REFUSED, SWITCHED
from handler.journal.pending import read_pending
from tests import journal as journals
from tests.invariants import broken_files, broken_invariants
from tests.simulators.pki import Draft, certificate_pem

from .in_process import call
from .stopping import FIRST, PLACES, SECOND, ends, finish, stop

pytestmark = pytest.mark.requested(FIRST)
DROPPED = ("enrol", "trial")


# The file removed


@pytest.mark.parametrize("place", PLACES)
def test_a_request_that_is_removed_is_dropped_or_finished(factory, place):
    stop(factory, place)
    factory.device.request_file.unlink()
    outcome = call(factory.device, "withdraw")
    if place in DROPPED:
        assert outcome.status == DONE
        assert ends(factory, FIRST) == [False]
        assert not journals.path(factory.device.storage).exists()
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
    journal = journals.read(factory.device.storage)
    del journal["rotation"]["announced"]
    journals.write_earlier(factory.device.storage, journal)


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
    """Dropped, the new key could be the only one that the gateway accepts."""
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
    journal = journals.read(factory.device.storage)
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
    journals.write(factory.device.storage, journal)
    finish(factory)
    assert len(set(factory.est.csrs)) == 1
    assert factory.device.current_identity().certificate == factory.est.issued[-1] != issued
    assert ends(factory, FIRST) == [True]
    again = "Generate new certificate was reported as done 2 times, under different ids"
    assert broken_invariants(factory, FIRST, completed=True) == [again] * (place != "trial")
