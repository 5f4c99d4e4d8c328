"""Opening a token: found by label, logged in to once, and what is said when that fails."""

import contextlib
import gc
import os
import subprocess
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pkcs11
import pytest
from pkcs11 import Attribute, KeyType, ObjectClass

from hsm import module as modules
from hsm.errors import (
    MixedHandlesError,
    ModuleError,
    ObjectConflictError,
    PinError,
    TokenAbsentError,
    TokenError,
    UnsupportedError,
)
from hsm.token import Token
from hsm.translation import translated
from tests.softhsm import MODULE, add_key_pair, make_token, objects, remove_token, softhsm_environment

(_SPY,) = (str(path) for path in Path("/usr/lib").glob("*/pkcs11/pkcs11-spy.so"))


@pytest.fixture
def fixture():
    token = make_token()
    yield token
    remove_token(token)


@pytest.fixture
def token(fixture):
    opened = Token(fixture.module, fixture.label, fixture.pin)
    yield opened
    opened.close()


def test_a_token_made_after_the_module_was_loaded_is_found(token):
    token.open()
    with token.session() as session:
        assert session.token.label == token.label
        assert session.rw


def test_a_missing_module_is_named():
    with pytest.raises(ModuleError, match=r"/nowhere/libckteec\.so is missing") as failure:
        Token("/nowhere/libckteec.so", "aktualizr", "1").open()
    assert failure.value.final


@pytest.mark.parametrize("module", ["libc.so.6", "no-such-module.so"])
def test_what_is_no_pkcs11_module_is_named(module):
    with pytest.raises(ModuleError, match=module):
        Token(module, "aktualizr", "1").open()


def test_an_absent_token_is_not_final_and_the_labels_that_are_there_are_named(fixture):
    with pytest.raises(TokenAbsentError) as failure:
        Token(MODULE, "no such label", "1234").open()
    assert not failure.value.final
    assert repr(fixture.label) in str(failure.value)


def test_two_tokens_of_one_label_are_refused():
    twins = [make_token("twins", exact=True), make_token("twins", exact=True)]
    with pytest.raises(ObjectConflictError, match="2 tokens have the label 'twins'"):
        Token(MODULE, "twins", twins[0].pin).open()
    for twin in twins:
        remove_token(twin)


def test_a_wrong_pin_is_tried_once_in_a_process(fixture, tmp_path):
    """The calls are counted by pkcs11-spy, in its own process."""
    log = tmp_path / "spy.log"
    program = (
        "import sys; from hsm.token import Token; from hsm.errors import PinError\n"
        "for attempt in range(3):\n"
        "    try: Token(*sys.argv[1:4]).open()\n"
        "    except PinError as error: print(error)\n"
    )
    said = _spied([program, _SPY, fixture.label, "11111111"], log)
    assert log.read_text().count("C_Login") == 1
    assert said.count("p11.pass") == 3
    assert "11111111" not in said


def test_the_process_logs_in_once_for_all_its_sessions_and_tokens(fixture, tmp_path):
    log = tmp_path / "spy.log"
    program = (
        "import sys; from hsm.token import Token; from hsm.errors import TokenError; import pkcs11\n"
        "tokens = [Token(*sys.argv[1:4]) for _ in range(3)]\n"
        "for token in tokens:\n"
        "    token.open()\n"
        "    try:\n"
        "        with token.session(): raise pkcs11.exceptions.OperationActive()\n"
        "    except TokenError: pass\n"
        "    with token.session() as session: list(session.get_objects())\n"
        "for token in tokens: token.close()\n"
    )
    _spied([program, _SPY, fixture.label, fixture.pin], log)
    assert log.read_text().count("C_Login") == 1
    assert log.read_text().count("C_Logout") == 1


def _spied(arguments, log):
    spy = {"PKCS11SPY": MODULE, "PKCS11SPY_OUTPUT": str(log)}
    run = subprocess.run(
        [sys.executable, "-c", *arguments],
        env=os.environ | softhsm_environment() | spy,
        check=True,
        capture_output=True,
        text=True,
    )
    assert run.stderr == ""
    return run.stdout


def test_no_pin_is_refused_without_an_attempt(fixture):
    with pytest.raises(PinError, match="no PIN"):
        Token(fixture.module, fixture.label, "").open()


def test_the_pin_is_never_shown(fixture, token):
    token.open()
    assert fixture.pin not in repr(token)


def test_after_an_error_the_next_use_opens_a_fresh_session(fixture, token):
    add_key_pair(fixture, 1)
    with token.session() as session:
        half_read = session.get_objects()
        next(half_read)
        with pytest.raises(TokenError, match="OperationActive"), token.session("search"):
            list(session.get_objects())
    with token.session() as fresh:
        assert fresh is not session
        assert len(list(fresh.get_objects())) == 2


def test_an_error_names_operation_token_and_what_to_do(token):
    with pytest.raises(TokenError) as failure, token.session("store certificate 09"):
        raise pkcs11.exceptions.DeviceMemory
    assert str(failure.value).startswith(f"could not store certificate 09 on token {token.label!r}: ")
    assert "DeviceMemory" in str(failure.value)
    assert "remove objects" in str(failure.value)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (pkcs11.exceptions.PinIncorrect(), PinError),
        (pkcs11.exceptions.PinLocked(), PinError),
        (pkcs11.exceptions.TokenNotPresent(), TokenAbsentError),
        (pkcs11.exceptions.DeviceRemoved(), TokenAbsentError),
        (pkcs11.exceptions.MechanismInvalid(), UnsupportedError),
        (pkcs11.exceptions.FunctionNotSupported(), UnsupportedError),
        (pkcs11.exceptions.MultipleObjectsReturned(), ObjectConflictError),
        (pkcs11.PKCS11Error("Unmapped error code 0x1b"), ObjectConflictError),
        (pkcs11.PKCS11Error("Unmapped error code 0x68"), UnsupportedError),
        (pkcs11.PKCS11Error("Unmapped error code 0x80000001"), TokenError),
        (pkcs11.exceptions.GeneralError(), TokenError),
        (pkcs11.exceptions.SessionHandleInvalid(), TokenError),
    ],
)
def test_what_a_module_says_is_translated(error, kind):
    assert type(translated(error, "do it", "aktualizr")) is kind


def test_a_module_lost_underneath_is_started_again(token):
    token.open()
    with modules.LOCK:
        modules.load(MODULE)._lib.finalize()
    with pytest.raises(TokenError), token.session() as session:
        list(session.get_objects())
    with token.session() as session:
        assert list(session.get_objects()) == []


_SECRET = {
    Attribute.CLASS: ObjectClass.SECRET_KEY,
    Attribute.KEY_TYPE: KeyType.GENERIC_SECRET,
    Attribute.TOKEN: True,
    Attribute.VALUE: b"new",
}


def test_a_token_that_was_away_is_found_again(fixture, token):
    add_key_pair(fixture, 1)
    before = objects(fixture)
    token.open()
    away = fixture.directory.parent.with_name(fixture.directory.name)
    fixture.directory.rename(away)
    for _ in range(3):
        with pytest.raises(TokenError) as failure, token.session() as session:
            session.create_object(_SECRET)
        assert not failure.value.final
    away.rename(fixture.directory)
    assert objects(fixture) == before
    with token.session() as session:
        assert len(list(session.get_objects())) == 2


def test_a_login_that_is_gone_is_made_again(fixture, token):
    """Without it private keys would be invisible, and a device would be told that its key is missing."""
    add_key_pair(fixture, 1)
    with token.session() as session:
        assert len(list(session.get_objects())) == 2
    module = modules.load(MODULE)
    with modules.LOCK:
        (login,) = module._logins.values()
        login.close()
    with pytest.raises(TokenError), token.session():
        raise pkcs11.exceptions.SessionHandleInvalid
    with token.session() as session:
        assert len(list(session.get_objects())) == 2


def test_a_restart_under_other_tokens_is_noticed_by_them(fixture, token):
    other = make_token()
    second = Token(other.module, other.label, other.pin)
    second.open()
    token.open()
    second.reinitialize()
    for client in (token, second):
        with client.session() as session:
            assert session.token.label == client.label
    second.close()
    remove_token(other)


def test_an_error_keeps_nothing_alive(token):
    """A search in a cycle would be ended by the garbage collector, in the middle of somebody's next one."""

    class Search:
        pass

    def fail():
        search = Search()
        with contextlib.suppress(TokenError), token.session():
            raise pkcs11.exceptions.GeneralError
        return weakref.ref(search)

    gc.disable()
    try:
        assert fail()() is None
    finally:
        gc.enable()


def test_objects_that_are_mixed_up_restart_the_module(token):
    token.open()
    before = modules.load(MODULE).generation
    with pytest.raises(MixedHandlesError), token.session():
        raise MixedHandlesError("another object than the one that was looked for")
    with token.session() as session:
        assert list(session.get_objects()) == []
    assert modules.load(MODULE).generation == before + 1


def test_pythons_own_hooks_are_back_after_an_operation(token):
    hooks = sys.excepthook, sys.unraisablehook
    with token.session():
        pass
    with pytest.raises(TokenError), token.session():
        raise pkcs11.exceptions.GeneralError
    assert (sys.excepthook, sys.unraisablehook) == hooks


def test_a_closed_token_can_be_used_again(token):
    token.open()
    token.close()
    token.close()
    with token.session() as session:
        assert list(session.get_objects()) == []


def test_threads_take_turns(fixture, token):
    add_key_pair(fixture, 1)
    inside = threading.Semaphore(1)

    def look(_):
        with token.session() as session:
            assert inside.acquire(blocking=False)
            try:
                return len(list(session.get_objects()))
            finally:
                inside.release()

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(look, range(200))) == {2}
