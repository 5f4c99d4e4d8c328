"""Tokens that fail: PINs that are wrong or locked, a token taken away, a module of which any one call fails.

TRY_EVERYTHING=1 in the environment: every call of a rotation with every return value, instead of a sample; hours.
"""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from handler.exit_status import DONE, PENDING, REFUSED, SWITCHED
from tests import journal as journals
from tests.crash.explorer import plain_module
from tests.modules import RETURN_VALUES, FaultyModule, Watched

from .in_process import call, finish

ID = "certs-token"
pytestmark = pytest.mark.requested(ID)
EVERYTHING = bool(os.environ.get("TRY_EVERYTHING"))
SHARES, SAMPLE = 2, 18
CKR_PIN_INCORRECT, CKR_PIN_LOCKED = 0xA0, 0xA4


@pytest.fixture
def factory(token):
    return token


# The PIN


def beside_the_journal(snapshot):
    return {name: file for name, file in snapshot.items() if "renew-client-cert" not in name and "spy.log" not in name}


@pytest.mark.parametrize("arguments", [(), ("rotate",), ("resume",)], ids=" ".join)
def test_a_wrong_pin_is_tried_once_by_a_call(factory, arguments):
    device = factory.device
    factory.gateway.faults.add("PATCH", "/config", times=None, status=400)
    assert call(device).status == REFUSED  # past step 2: there is something to resume
    factory.gateway.faults.clear()
    right = device.hsm_toml.read_text()
    watched = Watched(device)
    device.hsm_toml.write_text(device.hsm_toml.read_text().replace(device.token.pin, "999111"))
    before, asked = device.snapshot(), [*factory.est.requests, *factory.gateway.requests]
    done = device.run(*arguments, environment=watched.environment())
    assert done.returncode == REFUSED, done.stderr
    assert "PIN" in done.stderr
    assert "999111" not in done.stdout + done.stderr
    assert watched.calls.count("C_Login") == 1
    assert [*factory.est.requests, *factory.gateway.requests] == asked
    # Nothing has changed but the journal, where it stands that this PIN is not tried again.
    assert beside_the_journal(device.snapshot()) == beside_the_journal(before)
    device.hsm_toml.write_text(right)
    assert finish(factory, ID) == []


@pytest.mark.parametrize(("value", "words"), [(CKR_PIN_INCORRECT, "not tried again"), (CKR_PIN_LOCKED, "is locked")])
def test_a_refused_or_locked_pin_is_tried_once_and_the_token_left_as_it_was(factory, tmp_path, value, words):
    device = factory.device
    module = FaultyModule(device, tmp_path)
    watched = Watched(device)
    assert device.run(environment=module.environment() | watched.environment()).returncode == SWITCHED
    login = watched.calls.index("C_Login") + 1
    before = device.token_objects()
    device.write_request("certs-again")
    done = device.run(environment=module.environment(login, value) | watched.environment())
    assert done.returncode == REFUSED, done.stderr
    assert watched.calls.count("C_Login") == 1
    assert words in done.stderr
    assert device.token_objects() == before
    # The PIN was right all along: what was noted of it is removed by hand, as the message then says.
    (device.storage / "renew-client-cert/refused-pin").unlink(missing_ok=True)
    with plain_module(device):
        assert finish(factory, "certs-again") == []


# The module and the token


@pytest.mark.parametrize("what", ["nothing", "text", "another library"])
def test_a_module_that_is_none_is_refused_and_named(factory, tmp_path, what):
    path = tmp_path / "module.so"
    if what == "text":
        path.write_text("not a library\n")
    elif what == "another library":
        path = next(Path("/usr/lib").glob("*/libz.so.1"))
    factory.device.module = path
    done = factory.device.run()
    assert done.returncode == REFUSED, done.stderr
    assert str(path) in done.stderr
    assert "Traceback" not in done.stderr
    assert factory.est.requests == []


@pytest.mark.parametrize(
    ("server", "method", "path"),
    [
        ("gateway", "PATCH", "/device"),
        ("gateway", "GET", "/config-device"),  # looked at beside the enrolment
        ("gateway", "PATCH", "/config"),
    ],
)
def test_a_token_that_is_taken_away_in_the_middle_is_waited_for(factory, until, server, method, path):
    device = factory.device
    identity = device.current_identity()
    fault = getattr(factory, server).faults.add(method, path, delay=1.0)
    with device.start() as program:
        until(lambda: fault.used)
        away = device.token.directory.rename(device.folder / "away")
        _, errors = program.communicate(timeout=60)
    away.rename(device.token.directory)
    assert program.returncode == PENDING, errors
    assert "Traceback" not in errors
    assert device.current_identity() == identity
    assert finish(factory, ID) == []


@pytest.mark.timeout(0 if EVERYTHING else 120)
@pytest.mark.parametrize("share", range(SHARES))
def test_a_module_that_fails_in_any_one_call_leaves_the_identity_in_use_alone(factory, tmp_path, share):
    """One rotation after another on one device, each with a failure somewhere else: what leaks adds up."""
    device = factory.device
    module = FaultyModule(device, tmp_path)
    for number, (place, name) in enumerate(points(device, module)[share::SHARES]):
        rotation_id = f"certs-fault-{number}"
        device.write_request(rotation_id)
        before, identity = device.token_objects(), device.current_identity()
        in_use = {identity.key, identity.certificate_name}
        done = device.run(environment=module.environment(place, RETURN_VALUES[name]))
        where = f"{name} from call {place}: {done.returncode} {done.stderr}"
        assert done.returncode in (PENDING, REFUSED, SWITCHED), where
        assert "Traceback" not in done.stderr, where
        kept = [each for each in device.token_objects() if each.id in in_use]
        assert kept == [each for each in before if each.id in in_use], where
        if done.returncode != SWITCHED:
            assert device.current_identity() == identity, where
        with plain_module(device):
            assert finish(factory, rotation_id) == [], where
        assert [each.id for each in device.token_objects()] == ["03", "09", "01", "07", "01", "07"], where


def test_a_signature_that_fails_once_costs_no_key_that_was_rolled_back(factory, tmp_path):
    """The device gateway may have accepted its certificate: the next rotation uses it again, later if need be."""
    device = factory.device
    factory.gateway.refuse_new_certificate = 403
    assert call(device).status == REFUSED
    kept = journals.kept(device.storage)["public_key"]
    module = FaultyModule(device, tmp_path)
    faulty = device.module
    watched = Watched(device)
    device.write_request("certs-watched")
    assert device.run(environment=module.environment() | watched.environment()).returncode == REFUSED
    device.module = faulty
    signatures = [place for place, name in enumerate(watched.calls, 1) if name == "C_Sign"]
    for number, place in enumerate(signatures[:4]):  # the old certificate is looked at, then the kept key is tried
        device.write_request(f"certs-{number}")
        device.run(environment=module.environment(place, RETURN_VALUES["CKR_DEVICE_ERROR"]))
        with plain_module(device):
            assert call(device).status == REFUSED
        assert journals.kept(device.storage)["public_key"] == kept, place


def points(device, module):
    """Choose calls of one rotation, counted from 1, and the name of what each returns: some of every function."""
    faulty = device.module
    watched = Watched(device)
    done = device.run(environment=module.environment() | watched.environment())
    assert done.returncode == SWITCHED, done.stderr
    device.module = faulty
    assert call_resume(device, module) == DONE
    places = list(range(1, len(watched.calls) + 1))
    if EVERYTHING:
        return [(place, name) for place in places for name in RETURN_VALUES]
    by_function = {}
    for place in places:
        by_function.setdefault(watched.calls[place - 1], []).append(place)
    choice = random.Random(len(places))
    chosen = [choice.choice(found) for found in by_function.values()]
    chosen += choice.sample(places, max(0, SAMPLE - len(chosen)))
    return [(place, choice.choice(list(RETURN_VALUES))) for place in sorted(chosen)]


def call_resume(device, module):
    return device.run("resume", environment=module.environment()).returncode


# A token that is not at hand


@pytest.fixture
def removed(factory):
    """Take the token away; gives what puts it back."""
    here = factory.device.token.directory
    away = here.rename(factory.device.folder / "token-away")
    return lambda: away.rename(here)


def test_a_token_that_comes_late_is_waited_for_with_hsm_wait(factory, removed):
    put_back = removed
    with factory.device.start(environment={"HSM_WAIT": "50"}) as program:
        said = program.stderr.readline()
        assert "is not there yet: waiting for it, 50 s at most" in said
        put_back()
        _, errors = program.communicate(timeout=60)
    assert program.returncode == SWITCHED, errors
    assert factory.device.current_identity().public_key == factory.gateway.current


def test_an_absent_token_is_not_waited_for_when_fioconfig_calls(factory, removed):
    done = factory.device.run()
    assert done.returncode == PENDING, done.stderr
    assert "no token with the label" in done.stderr
    assert "waiting" not in done.stderr


@pytest.mark.parametrize("wait", ["soon", "-1", "nan", "inf"])
def test_a_wait_that_is_no_number_of_seconds_is_refused_before_anything_changes(factory, wait):
    before = factory.device.snapshot()
    done = factory.device.run(environment={"HSM_WAIT": wait})
    assert done.returncode == REFUSED
    assert f"HSM_WAIT in the environment is '{wait}'" in done.stderr
    assert factory.device.snapshot() == before


def test_an_openssl_that_takes_no_such_key_is_named_before_anything_is_kept(factory):
    device = factory.device
    before = device.token_objects()
    program = (
        "import ssl, sys; ssl.OPENSSL_VERSION = 'LibreSSL 4.0.0'; from handler.cli import main; sys.exit(main([]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=device.environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == REFUSED
    assert "needs OpenSSL 3.0 or newer, this is LibreSSL 4" in done.stderr
    assert "Traceback" not in done.stderr
    assert device.token_objects() == before
    assert factory.est.requests == factory.gateway.requests == []
