"""A rotation that is stopped at one of its requests, before something else is asked for."""

from handler.exit_status import DONE, PENDING, SWITCHED
from tests.invariants import broken_invariants, secrets_in_journal

from .in_process import call

PLACES = {
    "enrol": ("est", "POST", "/simplereenroll"),
    "trial": ("est", "GET", "/cacerts"),
    "announce": ("gateway", "PATCH", "/device"),
    "fetch files": ("gateway", "GET", "/config-device"),
    "store files": ("gateway", "PATCH", "/config"),
    "prove": ("gateway", "*", "*"),
}
FIRST, SECOND = "certs-first", "certs-second"


def cannot_answer(factory, asked=2, **fault):
    """Have the gateway answer nothing from the switch on, when it was asked so often for the files."""
    factory.gateway.faults.add("POST", "/events", times=None, **fault)
    factory.gateway.faults.add("GET", "/config-device", skip=asked, times=None, **fault)


def stop(factory, place, *, keep=False):
    """Let the first rotation come so far; `keep` the fault that stopped it."""
    server, method, path = PLACES[place]
    faults = getattr(factory, server).faults
    # Any answer to the trial is good enough. The files are looked at once before.
    how = {"drop": "before"} if place == "trial" else {"status": 500, "skip": int(place == "fetch files")}
    faults.add(method, path, times=None, announced=place == "prove", **how)
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


def new_certificate_is_refused(factory, how=403):
    factory.gateway.refuse_new_certificate = how


def rotates_again(factory):
    """Let the gateway take new certificates, and ask again."""
    factory.gateway.refuse_new_certificate = None
    factory.device.write_request("certs-after")
    assert call(factory.device).status == SWITCHED
    assert call(factory.device).status == DONE
    assert broken_invariants(factory, "certs-after", completed=True) == []
