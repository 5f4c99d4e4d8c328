"""A rotation that fioconfig's own code left is finished: at each step, half-done, with leftovers, refused, another id.

fioconfig counts a step when it is done and writes its file after that, so that of the step that follows anything may
have been done. Its events up to there have gone out under the same correlation id.
"""

import json
import os
import re

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from handler.exit_status import DONE, PENDING, REFUSED, SWITCHED
from handler.journal.pending import read_pending
from tests import softhsm
from tests.events import STEPS
from tests.invariants import broken_files, broken_invariants, secrets_in_journal
from tests.simulators.factory import running_factory
from tests.simulators.pki import certificate_pem, key_pem, spki_pem

from .in_process import call
from .stock import ID, Stock


class ReportingStock(Stock):
    """Reports what it does, as fioconfig does."""

    def __init__(self, factory):
        super().__init__(factory)
        if not self.device.token:
            # Without ids on its command line, as Go writes a nil slice.
            self.state |= {"PkeySlotIds": None, "CertSlotIds": None}

    def run(self, steps):
        super().run(steps)
        for number, name in enumerate(("CertRotationStarted", *STEPS[:steps])):
            event = {"correlationId": ID, "success": True, "targetName": "intel-corei7-64-lmp-290", "version": "290"}
            event_type = {"id": name, "version": 0}
            self.factory.gateway.events.append({"id": f"stock-{number}", "event": event, "eventType": event_type})

    def gateway_sees_new_certificate(self):
        """Do what fioconfig's check-in does after the switch: from then on the old certificate is refused."""
        gateway = self.factory.gateway
        gateway.denied.add(gateway.current)
        gateway.current, gateway.next_pubkey = gateway.next_pubkey, None


@pytest.fixture(params=["file", "token"])
def stock(request, tmp_path):
    with running_factory(tmp_path / "device", request.param) as factory:
        factory.device.write_request(ID)
        yield ReportingStock(factory)


@pytest.fixture
def in_files(tmp_path):
    with running_factory(tmp_path / "device", "file") as factory:
        factory.device.write_request(ID)
        yield ReportingStock(factory)


@pytest.fixture
def in_token(tmp_path):
    with running_factory(tmp_path / "device", "token") as factory:
        factory.device.write_request(ID)
        yield ReportingStock(factory)


def finish(stock):
    statuses = [call(stock.device).status for _ in range(3)]
    # A call that has switched the key leaves another rotation to the next one.
    assert set(statuses[:2]) <= {SWITCHED, DONE}
    assert (statuses[2], call(stock.device, "resume").status) == (DONE, DONE)
    assert not (stock.device.storage / "cert-rotation.state").exists()


def with_its_key(stock):
    return stock.device.current_identity().public_key == spki_pem(stock.public)


def ends(stock, rotation_id=ID):
    return [each["event"]["success"] for each in stock.factory.gateway.completed(rotation_id)]


# At each step


@pytest.mark.parametrize("steps", range(6))
def test_a_rotation_that_is_taken_over_ends_as_one_of_our_own(stock, steps):
    stock.run(steps)
    finish(stock)
    assert broken_invariants(stock.factory, ID, completed=True) == []
    assert not steps or (with_its_key(stock) and stock.factory.est.csrs == [])


@pytest.mark.parametrize("steps", range(1, 6))
def test_a_resume_takes_it_over_too(in_files, steps):
    in_files.run(steps)
    in_files.device.request_file.unlink()
    assert call(in_files.device, "resume").status == DONE
    assert broken_invariants(in_files.factory, ID, completed=True) == []
    assert with_its_key(in_files)


def test_a_token_that_is_away_leaves_it_to_the_daemon(in_token):
    in_token.run(2)
    device = in_token.device
    away = device.token.directory.rename(device.folder / "away")
    assert device.run().returncode == PENDING
    away.rename(device.token.directory)
    assert read_pending(device.storage).due
    assert device.run("resume", "--unattended").returncode == DONE
    assert broken_invariants(in_token.factory, ID, completed=True) == []
    assert with_its_key(in_token)


@pytest.mark.parametrize("steps", range(6))
def test_offline_it_is_left_for_later_and_the_files_stay_readable(stock, steps):
    stock.run(steps)
    assert call(stock.device, "offline").status == DONE
    assert broken_files(stock.factory) == [] or 4 <= steps < 5  # the server's are for the new key by then
    assert stock.device.plaintexts()
    assert stock.factory.est.requests == stock.factory.gateway.requests == []
    assert secrets_in_journal(stock.device) == []
    finish(stock)
    assert broken_invariants(stock.factory, ID, completed=True) == []


@pytest.mark.parametrize("steps", range(1, 5))
def test_what_is_done_of_the_next_step_but_not_written_down_is_no_obstacle(stock, steps):
    stock.run(steps)
    written = json.dumps(stock.state)
    (stock.enrol, stock.lock, stock.local, stock.server, stock.finalize)[steps]()
    if steps == 4:
        stock.state["Finalized"] = False
    else:
        (stock.device.storage / "cert-rotation.state").write_text(written)
    finish(stock)
    assert broken_invariants(stock.factory, ID, completed=True) == []
    assert with_its_key(stock)


@pytest.mark.parametrize("seen", [False, True])
@pytest.mark.parametrize("steps", [4, 5])
def test_a_switch_of_sota_toml_is_made_whole_whether_the_gateway_has_seen_it_or_not(stock, steps, seen):
    stock.run(steps)
    if steps == 4:
        stock.switch()
    if seen:
        stock.gateway_sees_new_certificate()
    finish(stock)
    assert broken_invariants(stock.factory, ID, completed=True) == []
    assert with_its_key(stock)


def test_taking_over_again_after_a_cut_makes_nothing_twice(stock):
    stock.run(1)
    state = stock.device.storage / "cert-rotation.state"
    content = state.read_bytes()
    stock.factory.gateway.faults.add("PATCH", "/device", times=None, status=500)
    assert call(stock.device).status == PENDING
    keys = stock.device.private_key_files()
    state.write_bytes(content)  # the cut came before it was removed
    assert call(stock.device, "resume").status == PENDING
    assert stock.device.private_key_files() == keys
    stock.factory.gateway.faults.clear()
    finish(stock)
    assert broken_invariants(stock.factory, ID, completed=True) == []


# What fioconfig leaves besides


def test_files_of_the_new_key_that_fioconfig_wrote_before_it_was_cut_off_do_not_stay(in_files):
    """Each of its attempts at the last step writes new ones."""
    in_files.run(4)
    storage = in_files.device.storage
    for number in ("1887078864", "0223344556"):
        (storage / f"pkey.{number}.pem").write_text(in_files.state["NewKey"])
        (storage / f"client.{number}.pem").write_text(in_files.state["NewCert"])
    finish(in_files)
    assert broken_invariants(in_files.factory, ID, completed=True) == []


def test_files_of_the_new_key_beside_those_in_use_do_not_stay(in_files):
    in_files.run(4)
    (in_files.device.storage / "pkey.0223344556.pem").write_text(in_files.state["NewKey"])
    in_files.switch()
    finish(in_files)
    assert broken_invariants(in_files.factory, ID, completed=True) == []


def test_a_file_of_another_key_is_left_alone(in_files):
    in_files.run(4)
    other = in_files.device.storage / "pkey.0000000001.pem"
    other.write_bytes(key_pem(ec.generate_private_key(ec.SECP256R1())))
    finish(in_files)
    assert other.exists()


def test_a_key_pair_without_a_certificate_in_the_free_slots_is_replaced(in_token):
    softhsm.add_key_pair(in_token.device.token, 7)
    in_token.run(0)
    finish(in_token)
    assert broken_invariants(in_token.factory, ID, completed=True) == []


def test_a_slot_that_is_empty_by_now_means_to_begin_again(in_token):
    in_token.state |= {"NewKey": "07", "NewCert": "09", "StepIdx": 1}
    in_token.save()
    finish(in_token)
    assert broken_invariants(in_token.factory, ID, completed=True) == []


@pytest.mark.parametrize(
    "spoilt",
    [
        {"NewKey": "-----BEGIN EC PRIVATE KEY-----\n"},
        {"NewCert": "-----BEGIN CERTIFICATE-----\n"},
        {"NewKey": ""},
        {"NewCert": ""},
        {"NewKey": None},
    ],
    ids=str,
)
def test_a_key_or_certificate_that_cannot_be_read_means_to_begin_again(in_files, spoilt):
    in_files.run(1)
    in_files.state |= spoilt
    in_files.save()
    in_files.factory.gateway.events.clear()
    finish(in_files)
    assert broken_invariants(in_files.factory, ID, completed=True) == []


def test_a_certificate_of_another_key_means_to_begin_again(in_files):
    in_files.run(1)
    other = in_files.factory.pki.device_certificate(ec.generate_private_key(ec.SECP256R1()).public_key())
    in_files.state["NewCert"] = certificate_pem(other).decode()
    in_files.save()
    in_files.factory.gateway.events.clear()
    finish(in_files)
    assert broken_invariants(in_files.factory, ID, completed=True) == []


@pytest.mark.parametrize(
    "content",
    ["", "[]", "null", "{}", '{"RotationId": 1, "EstServer": [], "StepIdx": "x"}', "[" * 100_000, '"\\ud800"'],
    ids=lambda content: content[:20],
)
def test_a_file_that_is_no_state_is_removed(in_files, content):
    (in_files.device.storage / "cert-rotation.state").write_text(content)
    finish(in_files)
    assert broken_invariants(in_files.factory, ID, completed=True) == []


def _fifo(path):
    os.mkfifo(path)


def _link(path):
    path.symlink_to(path.with_name("sota.toml"))


def _loop(path):
    path.symlink_to(path)


def _folder(path):
    (path / "in").mkdir(parents=True)


def _long(path):
    with path.open("wb") as file:
        file.truncate(10**9)


@pytest.mark.parametrize("make", [_fifo, _link, _loop, _folder, _long])
def test_what_is_no_file_of_fioconfigs_is_neither_waited_for_nor_followed(in_files, make):
    make(in_files.device.storage / "cert-rotation.state")
    finish(in_files)
    assert broken_invariants(in_files.factory, ID, completed=True) == []


WRONG_VALUES = [
    *(("StepIdx", each) for each in ("1e999", "NaN", "1.5", "true", '"1"', "9" * 5000)),
    *(("NewKey", each) for each in (r'"\ud800"', r'"-----BEGIN EC PRIVATE KEY-----\udfff"', "7", "[]")),
    *((name, r'"certs\udfff"') for name in ("RotationId", "EstServer", "NewCert", "FullConfigEncrypted")),
    *(("PkeySlotIds", each) for each in ('"01,07"', "[1, 7]", '[["01"], "07"]', r'["01", "\ud800"]')),
]


@pytest.mark.parametrize(("name", "value"), WRONG_VALUES, ids=lambda each: str(each)[:20])
def test_a_state_with_a_value_that_fioconfig_cannot_have_written_is_put_away_and_the_device_rotates(
    in_files, name, value
):
    in_files.run(1)
    path = in_files.device.storage / "cert-rotation.state"
    text = path.read_text()
    (old,) = re.findall(rf'"{name}":((?:"(?:[^"\\]|\\.)*")|null|[0-9]+)', text)
    path.write_text(text.replace(f'"{name}":{old}', f'"{name}":{value}'))
    content = path.read_bytes()
    finish(in_files)
    identity = in_files.device.current_identity()
    assert identity.whole
    assert identity.public_key == in_files.factory.gateway.current
    aside = in_files.device.storage / "renew-client-cert/cert-rotation.state"  # it may hold the only key
    assert aside.exists() == (b"PRIVATE KEY" in content)
    assert not aside.exists() or aside.read_bytes() == content


# EffectiveRequest for another one, or for none


@pytest.mark.parametrize("steps", range(6))
def test_another_rotation_is_done_after_one_that_fioconfig_left(stock, steps):
    stock.run(steps)
    stock.device.write_request("certs-next")
    finish(stock)
    assert ends(stock) == [True] * (steps >= 1)  # it may have been telling the gateway when it was cut off
    assert broken_invariants(stock.factory, "certs-next", completed=True) == []


@pytest.mark.parametrize("steps", range(6))
def test_a_request_that_was_removed_drops_what_the_gateway_cannot_know_of(in_files, steps):
    in_files.run(steps)
    in_files.device.request_file.unlink()
    assert call(in_files.device, "withdraw").status in (DONE, SWITCHED)
    assert call(in_files.device, "resume").status == DONE
    assert not (in_files.device.storage / "cert-rotation.state").exists()
    if steps >= 1:  # it may have been told when that was cut off
        assert broken_invariants(in_files.factory, ID, completed=True) == []
    else:
        assert len(in_files.device.private_key_files()) == 1
        assert in_files.device.current_identity().whole


# The gateway refuses its certificate


@pytest.mark.parametrize("steps", range(1, 5))
def test_one_that_the_gateway_refuses_is_rolled_back(stock, steps):
    stock.run(steps)
    stock.factory.gateway.refuse_new_certificate = 403
    outcome = call(stock.device)
    assert outcome.status == REFUSED
    assert "rolled back" in outcome.said
    assert broken_invariants(stock.factory, ID, completed=False) == []


def test_one_that_is_switched_in_a_token_goes_back_to_the_other_slots(in_token):
    in_token.run(5)
    in_token.factory.gateway.refuse_new_certificate = 403
    assert call(in_token.device).status == SWITCHED  # back again: fioconfig has loaded the new key
    assert len([each for each in in_token.device.token_objects() if each.object_class == "PRIVATE_KEY"]) == 2
    assert call(in_token.device, "resume").status == DONE
    assert broken_invariants(in_token.factory, ID, completed=False) == []


@pytest.mark.parametrize("steps", [4, 5])
def test_the_old_certificate_is_found_whatever_the_order_of_the_ids(in_token, steps):
    in_token.state["CertSlotIds"] = ["09", "03"]
    in_token.device.write_request(ID, certids="09,03")
    in_token.run(steps)
    if steps == 4:  # the last one done, but not noted
        in_token.finalize()
    finish(in_token)
    assert broken_invariants(in_token.factory, ID, completed=True) == []


def test_one_that_is_switched_in_files_cannot_go_back_and_keeps_trying(in_files):
    """fioconfig has overwritten the old names, and kept them nowhere."""
    in_files.run(5)
    in_files.factory.gateway.refuse_new_certificate = 403
    for _ in range(2):
        outcome = call(in_files.device)
        assert outcome.status == PENDING
        assert "the device gateway accepts neither the new certificate nor the old one" in outcome.said
        assert "the old one is unknown" in outcome.said
        assert with_its_key(in_files)
        assert broken_files(in_files.factory) == []
    in_files.factory.gateway.refuse_new_certificate = None
    finish(in_files)
    assert broken_invariants(in_files.factory, ID, completed=True) == []


# As a process


def test_a_warning_tells_that_a_rotation_was_taken_over(in_files):
    in_files.run(3)
    done = in_files.device.run()
    assert done.returncode == SWITCHED
    assert f"taking over rotation {ID}, which fioconfig left after step 3" in done.stderr
    assert "Traceback" not in done.stderr
    assert in_files.device.run().returncode == DONE
    assert broken_invariants(in_files.factory, ID, completed=True) == []


# What cannot be taken over


@pytest.mark.parametrize(
    "wrong",
    [
        {"PkeySlotIds": ["01", "10"]},
        {"CertSlotIds": ["03"]},
        {"EstServer": "http://127.0.0.1:9/est"},
        {"RotationId": "certs 0!"},
    ],
    ids=str,
)
def test_a_state_that_asks_for_what_no_request_may_is_put_away(in_token, wrong):
    in_token.run(0)
    path = in_token.device.storage / "cert-rotation.state"
    path.write_text(json.dumps(json.loads(path.read_text()) | wrong))
    finish(in_token)
    assert not path.exists()
    assert broken_invariants(in_token.factory, ID, completed=True) == []


def test_a_new_key_beyond_the_ids_that_everybody_reads_alike_is_made_again(in_token):
    in_token.run(1)
    path = in_token.device.storage / "cert-rotation.state"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"NewKey": "10", "NewCert": "11"}))
    finish(in_token)
    assert broken_invariants(in_token.factory, ID, completed=True) == []


def test_a_state_with_a_key_that_comes_while_another_rotation_is_pending_is_kept_aside(in_files):
    in_files.run(1)
    path = in_files.device.storage / "cert-rotation.state"
    content = path.read_bytes()
    path.unlink()
    in_files.factory.gateway.faults.add("PATCH", "/device", times=None, status=500)
    in_files.device.write_request("certs-ours")
    assert call(in_files.device).status == PENDING
    path.write_bytes(content)
    assert call(in_files.device, "resume").status == PENDING
    aside = in_files.device.storage / "renew-client-cert/cert-rotation.state"
    assert aside.read_bytes() == content
    assert aside.stat().st_mode & 0o777 == 0o600
    in_files.factory.gateway.faults.clear()
    assert call(in_files.device, "resume").status == DONE
    assert in_files.device.current_identity().public_key == in_files.factory.gateway.current


def test_one_that_was_cut_off_between_sota_toml_and_config_encrypted_is_made_whole_offline(stock):
    plaintexts = stock.device.plaintexts()
    stock.run(4)
    stock.switch()
    assert call(stock.device, "offline").status == DONE
    assert stock.device.plaintexts() == plaintexts
    finish(stock)
    assert stock.device.plaintexts() == plaintexts


def test_no_private_key_stays_in_a_json_file(stock):
    stock.run(1)
    call(stock.device)
    left = [path.name for path in stock.device.private_key_files() if path.suffix != ".pem"]
    assert left == []


def test_the_key_that_fioconfig_made_is_kept_in_a_file_of_its_own(tmp_path):
    with running_factory(tmp_path / "device", "file") as factory:
        factory.device.write_request(ID)
        stock = ReportingStock(factory)
        stock.run(2)
        finish(stock)
        path = factory.device.current_identity().key
        loaded = serialization.load_pem_private_key((factory.device.storage / path).read_bytes(), None)
        assert loaded.private_numbers() == stock.key.private_numbers()
        assert (factory.device.storage / path).stat().st_mode & 0o777 == 0o600
