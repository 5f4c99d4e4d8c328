"""One suite over every kind of token: the program as a process, as fioconfig calls it (docs/tokens.md is from here).

Two of them have no ECDH: their devices have a configuration with nothing encrypted.
"""

import contextlib
import re
import subprocess
import threading

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from pkcs11 import ObjectClass

from handler.exit_status import DONE, PENDING, REFUSED, SWITCHED
from tests.modules import C_CREATE_OBJECT, C_GENERATE_KEY_PAIR, RETURN_VALUES, FaultyModule, Watched
from tests.simulators.device_config import DEVICE_FILES, FACTORY_FILES, PlainFile, plaintexts
from tests.simulators.factory import running_factory
from tests.tokens import KINDS, WITHOUT_ECDH, running_token
from tests.tokens.tpm import TPM2

PLAIN_FILES = {"note": PlainFile(b"plain", unencrypted=True)}
OF_THEIR_OWN = tuple(kind for kind in KINDS if kind != "spy")
"""pkcs11-spy only passes on what SoftHSM says."""
A_PAIR = ["PRIVATE_KEY", "PUBLIC_KEY"]
ID = "certs-1"
"""Their places in CK_FUNCTION_LIST (PKCS#11 v2.40 §3.4)."""


of_their_own = pytest.mark.parametrize("hardware", OF_THEIR_OWN, indirect=True)


@pytest.fixture(params=KINDS)
def hardware(request):
    """Start a token of every kind."""
    with running_token(request.param) as running:
        yield running


@pytest.fixture
def factory(hardware, tmp_path):
    with registered(tmp_path, hardware) as running:
        yield running


def registered(folder, token, **device):
    """Run a factory with a device whose keys are in the token, and whose configuration the token can decrypt."""
    files = {} if token.can_derive else {"config": PLAIN_FILES, "config_device": PLAIN_FILES}
    return running_factory(folder / "device", "token", token=token, **files, **device)


def rotate(device, rotation_id=ID, environment=None):
    device.write_request(rotation_id)
    return device.run(environment=environment)


def check_rotated(factory):
    """Check that the identity in use is whole, the gateway's, and reads the configuration; give its key's name."""
    device = factory.device
    identity = device.current_identity()
    assert identity.whole
    assert identity.public_key == factory.gateway.current
    expected = {**FACTORY_FILES, **DEVICE_FILES} if device.token.can_derive else PLAIN_FILES
    assert device.plaintexts() == plaintexts(expected)
    return identity.key


def configure(device, key, value):
    """Put another value in the place of a key's, or leave the key out (None)."""
    line = "" if value is None else f'{key} = "{value}"'
    device.hsm_toml.write_text(re.sub(f'{key} = ".*"', line, device.hsm_toml.read_text()))


def under(device, object_id):
    return [(each.object_class, each.label) for each in device.token_objects() if each.id == object_id]


# What is asked of every token


def test_three_rotations_use_the_two_slots_in_turn(factory):
    device = factory.device
    used = [device.current_identity().key]
    for number in range(3):
        done = rotate(device, f"certs-{number}")
        assert done.returncode == SWITCHED, done.stderr
        used.append(check_rotated(factory))
    assert used == ["01", "07", "01", "07"]
    for object_id in ("01", "07"):
        assert under(device, object_id) == [(kind, "tls") for kind in A_PAIR]
    for object_id in ("03", "09"):
        assert under(device, object_id) == [("CERTIFICATE", "client")]


def test_a_dry_run_after_the_switch_leaves_the_gateways_first_sight_to_the_rotation(factory):
    """Where a token cannot derive, a rotation asks the gateway before anything changes whether values are encrypted."""
    device = factory.device
    device.write_request(ID)
    factory.gateway.faults.add("*", "*", announced=True, times=None, status=503, headers={"Retry-After": "3000"})
    assert device.run().returncode == SWITCHED
    factory.gateway.faults.clear()
    requests = len(factory.gateway.requests)
    device.write_request("certs-next")
    done = device.run("rotate", "--dry-run")
    assert done.returncode == DONE, done.stderr
    assert f"rotation {ID} is pending after step 5 and would be finished first" in done.stdout
    assert len(factory.gateway.requests) == requests


def test_every_session_and_login_is_given_back(factory, record_property):
    device = factory.device
    watched = Watched(device)
    logins = []
    for number in range(2):
        device.write_request(f"certs-{number}")
        with device.start(environment=watched.environment()) as program:  # the end of its process counts as well
            _, errors = program.communicate(timeout=60)
        assert program.returncode == SWITCHED, errors
        calls = watched.calls
        # Those that a new start of the module ends by itself may be missing.
        starts = calls.count("C_Initialize")
        assert calls.count("C_Finalize") == starts
        assert calls.count("C_Login") == starts
        assert starts == 1 or device.token.plain_module == TPM2
        assert calls[-4:] == ["C_CloseSession", "C_Logout", "C_CloseSession", "C_Finalize"]
        logins.append(starts)
    record_property("logins", "{}, {}".format(*logins))


def test_a_token_that_is_not_there_is_waited_for_by_later_calls(factory):
    device = factory.device
    identity = device.current_identity()
    with device.token.away():
        done = rotate(device)
        assert done.returncode == PENDING, done.stderr
        assert "Traceback" not in done.stderr
    assert device.current_identity() == identity
    done = device.run()
    assert done.returncode == SWITCHED, done.stderr
    check_rotated(factory)


def test_a_token_that_is_taken_away_in_the_middle_is_waited_for_by_later_calls(factory, until):
    device = factory.device
    identity = device.current_identity()
    fault = factory.est.faults.add("POST", "/simplereenroll", delay=0.7)
    device.write_request(ID)
    with device.start() as program:
        until(lambda: fault.used)
        with device.token.away():
            _, errors = program.communicate(timeout=60)
    assert program.returncode == PENDING, errors
    assert "Traceback" not in errors
    assert device.current_identity() == identity
    done = device.run()
    assert done.returncode == SWITCHED, done.stderr
    check_rotated(factory)
    assert under(device, "07") == [(kind, "tls") for kind in A_PAIR]


def test_a_wrong_pin_is_tried_once_and_by_no_later_call_until_another_one_is_configured(factory):
    device = factory.device
    right = device.hsm_toml.read_text()
    configure(device, "pass", "999111")
    watched = Watched(device)
    tried = []
    for _ in range(3):
        done = rotate(device, environment=watched.environment())
        assert done.returncode == REFUSED, done.stderr
        assert "PIN" in done.stderr
        assert "p11.pass" in done.stderr
        tried.append(watched.calls.count("C_Login"))
    assert tried == [1, 0, 0]
    noted = device.storage / "renew-client-cert/refused-pin"
    assert str(noted) in done.stderr
    assert "999111" not in noted.read_text()
    device.hsm_toml.write_text(right)
    done = rotate(device)
    assert done.returncode == SWITCHED, done.stderr
    check_rotated(factory)
    assert not noted.exists()


def test_what_another_program_writes_to_the_token_meanwhile_is_kept(factory):
    device = factory.device
    with another_writer(device.token) as made:
        for number in range(2):
            statuses = [rotate(device, f"certs-{number}").returncode]
            while statuses[-1] == PENDING and len(statuses) < 5:  # the token was busy for too long
                statuses.append(device.run().returncode)
            assert statuses[-1] == SWITCHED, statuses
    check_rotated(factory)
    for object_id in ("01", "07"):
        assert under(device, object_id) == [(kind, "tls") for kind in A_PAIR]
    found = [each.value for each in device.token_objects() if (each.object_class, each.id) == ("PUBLIC_KEY", "05")]
    assert made
    assert all(any(each in value for value in found) for each in made)


@contextlib.contextmanager
def another_writer(token):
    """Have another process make keys in the token, ten a second at most; gives the list of their public points."""
    made, stop = [], threading.Event()

    def write():
        while not stop.wait(0.1):
            # It gives up where it finds the token busy: that is its own affair.
            with contextlib.suppress(RuntimeError):
                made.append(token.write_apart(5, "edgelock"))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield made
    finally:
        stop.set()
        writer.join(60)


def test_two_calls_at_the_same_time_make_one_rotation(factory):
    device = factory.device
    device.write_request(ID)
    with device.start() as one, device.start() as two:
        errors = [each.communicate(timeout=60)[1] for each in (one, two)]
    assert sorted([one.returncode, two.returncode]) == [DONE, SWITCHED], errors
    check_rotated(factory)
    assert len([each for each in factory.est.requests if each.path.endswith("/simplereenroll")]) == 1
    assert under(device, "07") == [(kind, "tls") for kind in A_PAIR]


# Whose token, and whose objects


@pytest.mark.parametrize("kind", OF_THEIR_OWN)
def test_the_label_is_aktualizr_by_default_and_another_token_in_the_module_is_left_alone(tmp_path, kind):
    with (
        running_token(kind, "aktualizr") as token,
        token.another("lmp") as other,
        registered(tmp_path, token) as factory,
    ):
        for object_id in (1, 7):
            other.add_key_pair(object_id)
        before = other.objects()
        configure(factory.device, "label", None)
        done = rotate(factory.device)
        assert done.returncode == SWITCHED, done.stderr
        check_rotated(factory)
        assert other.objects() == before


@of_their_own
def test_a_label_that_two_tokens_have_is_refused(factory):
    device = factory.device
    device.write_request(ID)
    if not device.token.takes_a_label_twice:
        with pytest.raises(subprocess.CalledProcessError), device.token.another(device.token.label):
            pass
        return
    before = device.untouched()
    with device.token.another(device.token.label):
        done = device.run()
    assert done.returncode == REFUSED, done.stderr
    assert f"2 tokens have the label {device.token.label!r}" in done.stderr
    assert factory.est.requests == []
    assert device.untouched() == before


@pytest.mark.parametrize("what", ["key", "certificate"])
@of_their_own
def test_objects_of_others_under_our_ids_are_refused_and_kept(factory, refused, what):
    device = factory.device
    device.write_request(ID)
    if what == "key":
        device.token.add_key_pair(7, "edgelock")
    else:
        device.token.add_certificate(9, device.certificate, "edgelock")
    said = refused(factory)
    assert "labelled 'edgelock' under id " + ("07" if what == "key" else "09") in said


@of_their_own
def test_two_private_keys_under_the_id_in_use_are_refused_with_both_labels(factory, refused):
    factory.device.write_request(ID)
    factory.device.token.add_key_pair(1, "other")
    said = refused(factory)
    assert "'tls' and 'other'" in said or "'other' and 'tls'" in said


# Keys


@pytest.mark.parametrize("kind", OF_THEIR_OWN)
def test_the_new_key_is_on_p384_where_the_current_one_is(tmp_path, kind):
    with running_token(kind) as token, registered(tmp_path, token, curve=ec.SECP384R1()) as factory:
        done = rotate(factory.device)
        assert done.returncode == SWITCHED, done.stderr
        check_rotated(factory)
        assert factory.device.current_identity().certificate.public_key().curve.name == "secp384r1"


@of_their_own
def test_an_rsa_key_in_use_is_refused_with_the_reason(factory, refused):
    device = factory.device
    for kind in (ObjectClass.PRIVATE_KEY, ObjectClass.PUBLIC_KEY):
        device.token.remove_objects(1, kind)
    device.token.remove_objects(3, ObjectClass.CERTIFICATE)
    device.token.add_certificate(3, factory.pki.device_certificate(device.token.add_rsa_key_pair(1)))
    device.write_request(ID)
    assert "RSA: expected EC, P-256 or P-384" in refused(factory)


@of_their_own
def test_half_a_pair_that_a_cut_left_is_cleaned_up(factory):
    device = factory.device
    device.token.add_key_pair(7)
    device.token.remove_objects(7, ObjectClass.PUBLIC_KEY)
    done = rotate(device)
    assert done.returncode == SWITCHED, done.stderr
    check_rotated(factory)
    assert under(device, "07") == [(kind, "tls") for kind in A_PAIR]


@of_their_own
@pytest.mark.parametrize(
    ("function", "said"),
    [(C_GENERATE_KEY_PAIR, "could not generate key 07"), (C_CREATE_OBJECT, "could not store certificate 09")],
)
def test_what_is_made_but_reported_as_failed_is_made_again_once(factory, tmp_path, function, said):
    device = factory.device
    busy = FaultyModule(device, tmp_path).environment(1, RETURN_VALUES["CKR_DEVICE_ERROR"], function)
    done = rotate(device, environment=busy)
    assert done.returncode == SWITCHED, done.stderr
    assert said in done.stderr
    assert "retrying in 0.5 s" in done.stderr
    check_rotated(factory)
    assert under(device, "07") == [(kind, "tls") for kind in A_PAIR]
    assert under(device, "09") == [("CERTIFICATE", "client")]


# What some cannot do


@pytest.mark.parametrize("kind", WITHOUT_ECDH)
def test_a_token_without_ecdh_is_refused_where_a_value_is_encrypted_before_anything_changes(tmp_path, refused, kind):
    with running_token(kind) as token, running_factory(tmp_path / "device", "token", token=token) as factory:
        factory.device.write_request(ID)
        said = refused(factory)
        assert "this token cannot derive keys (ECDH, CKM_ECDH1_DERIVE)" in said
        assert "holds encrypted values" in said
