"""`status`: what is in use and what is pending, for people and for programs."""

import json
import os
import threading
from datetime import UTC, datetime

import pytest

from handler.commands import check, slots, status
from handler.console.arguments import make_parser
from handler.console.settings import Settings
from handler.device.lock import device_lock
from handler.errors import RequestRefusedError
from handler.exit_status import DONE, PENDING, REFUSED, SWITCHED
from tests import journal as journals
from tests import softhsm
from tests.modules import COUNT_LOW, FINAL_TRY, LOCKED, FlaggedToken
from tests.privileges import NOBODY, reachable_folder, unprivileged
from tests.simulators.factory import running_factory
from tests.simulators.pki import key_pem
from tests.terminal import on_terminal

from .left_behind import left_after
from .looking import look

ID = "certs-status"
NOT_YET = {"status": 503, "headers": {"Retry-After": "3000"}, "times": None}


def facts(done):
    """Give the lines by their names."""
    return {line[:15].strip(): line[15:] for line in done.stdout.splitlines()}


def as_json(factory, **given):
    done = look(factory, "status", "--json", **given)
    assert done.stdout.isascii()
    return json.loads(done.stdout)


def test_the_identity_in_use_is_shown_with_where_its_key_lives(factory):
    device = factory.device
    shown = facts(look(factory, "status"))
    identity = device.current_identity()
    assert shown["identity"].startswith(f"key {identity.key}, certificate {identity.certificate_name} (")
    assert (device.token.label if device.token else "files") in shown["identity"]
    assert shown["subject"] == identity.certificate.subject.rfc4514_string()
    assert shown["issuer"] == identity.certificate.issuer.rfc4514_string()
    assert int(shown["serial"], 16) == identity.certificate.serial_number
    days = (identity.certificate.not_valid_after_utc - datetime.now(UTC)).days
    assert f"{days} days left" in shown["valid"]
    assert shown["pending"] == "no rotation"
    assert shown["last rotation"] == "none recorded"
    assert shown["events"] == "0 not delivered yet"
    assert "problem" not in shown


def test_the_slots_of_a_token_are_shown_with_the_one_in_use(token):
    softhsm.add_certificate(token.device.token, 9, token.device.certificate, label="cloud")
    shown = facts(look(token, "status"))
    assert shown["key slots"] == "01 in use, 07 empty"
    assert shown["cert slots"] == "03 in use, 09 not ours"
    token.device.write_request(ID, pkeyids="01,05", certids="03,06")
    assert facts(look(token, "status"))["key slots"] == "01 in use, 05 empty"


def test_the_last_rotation_is_shown_and_the_slots_it_left(factory):
    factory.device.write_request(ID)
    assert factory.device.run().returncode == SWITCHED
    shown = facts(look(factory, "status"))
    assert shown["last rotation"].startswith(f"{ID}: complete, 20")
    assert shown["pending"] == f"no rotation; rotation {ID} is in use; the next call cleans up after it"
    assert factory.device.run("resume").returncode == DONE
    shown = facts(look(factory, "status"))
    assert shown["pending"] == "no rotation"
    if factory.device.token:
        assert (shown["key slots"], shown["cert slots"]) == ("01 free, 07 in use", "03 free, 09 in use")


def test_a_rotation_that_waits_is_shown_with_what_it_waits_for_and_until_when(factory):
    factory.device.write_request(ID)
    factory.gateway.faults.add("PATCH", "/device", **NOT_YET)
    factory.gateway.faults.add("POST", "/events", **NOT_YET)
    assert factory.device.run().returncode == PENDING
    shown = facts(look(factory, "status"))
    assert shown["pending"] == f"rotation {ID}: 1 of 5 steps done"
    assert shown["waits for"].startswith("device gateway 127.0.0.1:")
    assert "HTTP 503" in shown["waits for"]
    assert as_json(factory)["pending"]["waits_for_kind"] == "gateway"
    assert datetime.strptime(shown["not before"], "%Y-%m-%d %H:%M:%S UTC").replace(tzinfo=UTC) > datetime.now(UTC)
    assert int(shown["events"].split()[0]) > 0


def test_a_rotation_that_was_refused_is_shown_with_the_reason_and_what_to_do(files):
    files.device.write_request(ID)
    files.gateway.faults.add("PATCH", "/config", times=None, status=400, body="no")
    assert files.device.run().returncode == REFUSED
    shown = facts(look(files, "status"))
    assert "refused: " in shown["pending"]
    assert "renew-client-cert abort" in shown["pending"]


def test_a_rotation_that_is_requested_while_another_one_is_pending_is_shown(files):
    left_after(files, "PATCH", "/config")
    files.device.write_request("certs-next")
    assert files.device.run().returncode == SWITCHED
    shown = facts(look(files, "status"))
    assert shown["pending"].endswith("cleans up after it; rotation certs-next is requested, and comes next")


def test_a_switch_that_the_gateway_has_not_taken_is_shown_as_such(files):
    files.device.write_request(ID)
    files.gateway.faults.add("*", "*", announced=True, **NOT_YET)
    assert files.device.run().returncode == SWITCHED
    shown = facts(look(files, "status"))
    assert "the device gateway has not accepted the new certificate yet" in shown["pending"]
    assert shown["last rotation"] == "none recorded"


def test_a_failed_rotation_is_shown_with_its_reason(files):
    files.device.write_request(ID)
    files.gateway.faults.add("PATCH", "/device", times=None, status=404)
    assert files.device.run().returncode == REFUSED
    assert facts(look(files, "status"))["last rotation"].startswith(f"{ID}: failed, 20")


def test_it_answers_without_a_network_while_another_process_holds_the_lock(factory):
    factory.gateway_server.stop()
    factory.est_server.stop()
    with device_lock(factory.device.storage, 1.0):
        done = look(factory, "status")
    assert done.returncode == DONE
    assert facts(done)["running"].startswith(f"process {os.getpid()}")


def test_it_answers_in_the_middle_of_a_rotation(files, until):
    device, go_on = files.device, threading.Event()
    files.gateway.faults.add("PATCH", "/device", hang=go_on)
    device.write_request(ID)
    with device.start() as process:
        until(lambda: ("PATCH", "/device") in files.gateway.calls())
        shown = facts(device.run("status"))
        go_on.set()
        process.communicate(timeout=30)
    assert shown["running"].startswith(f"process {process.pid} ")
    assert shown["pending"] == f"rotation {ID}: 1 of 5 steps done"


# For programs


def test_the_json_says_the_same(factory):
    factory.device.write_request(ID)
    factory.gateway.faults.add("PATCH", "/device", **NOT_YET)
    assert factory.device.run().returncode == PENDING
    content, identity = as_json(factory), factory.device.current_identity()
    assert content["version"] == 2
    assert content["identity"]["key"] == identity.key
    assert content["identity"]["source"] == ("pkcs11" if factory.device.token else "file")
    assert content["identity"]["key_fits"] is True
    assert content["identity"]["problem"] is None
    assert (content["pending"]["rotation_id"], content["pending"]["step"]) == (ID, 1)
    assert content["pending"]["until"]
    assert bool(content["slots"]) == bool(factory.device.token)
    assert content["last_rotation"] is None


def test_without_anything_pending_the_json_says_null(files):
    content = as_json(files)
    assert (content["pending"], content["last_rotation"], content["undelivered_events"]) == (None, None, 0)
    assert content["identity"]["token"] is None


# The PIN


@pytest.mark.parametrize("flags", [0, COUNT_LOW, FINAL_TRY, LOCKED])
def test_the_pin_is_never_tried_where_the_token_shows_its_certificates(token, tmp_path, flags):
    module = FlaggedToken(token.device, tmp_path)
    shown = facts(look(token, "status", environment=module.environment(flags)))
    assert module.logins == 0
    assert shown["subject"]
    words = {COUNT_LOW: "refused since the last login", FINAL_TRY: "one attempt left", LOCKED: "locked"}
    assert shown["PIN"] == words.get(flags, "all attempts left")


@pytest.mark.parametrize(("flags", "logins"), [(0, 1), (LOCKED, 0)])
def test_a_certificate_that_hides_is_looked_for_with_the_pin_only_where_that_risks_nothing(
    token, tmp_path, flags, logins
):
    (token.device.folder / "var/sota/sota.toml").write_text(
        token.device.sota_toml.read_text().replace('tls_clientcert_id = "03"', 'tls_clientcert_id = "04"')
    )
    module = FlaggedToken(token.device, tmp_path)
    done = token.device.run("status", environment=module.environment(flags))
    assert module.logins == logins
    assert done.returncode == REFUSED
    assert ("locked" in facts(done)["problem"]) == bool(flags)


# What is not there


def test_a_token_that_is_away_leaves_the_rest_of_the_status(token):
    token.device.write_request(ID)
    assert token.device.run("rotate").returncode == DONE
    with token.device.token.away():
        done = token.device.run("status")
    assert done.returncode == PENDING
    shown = facts(done)
    assert token.device.token.label in shown["problem"]
    assert shown["last rotation"].startswith(ID)
    assert shown["key slots"] == "01 unknown, 07 in use"


def test_without_a_configuration_it_says_what_is_expected_where(files):
    done = look(files, "status", "--sota", "/nowhere/sota.toml")
    assert done.returncode == REFUSED
    assert "/nowhere/sota.toml" in facts(done)["problem"]
    assert facts(done)["pending"] == "no rotation"
    assert as_json(files)["identity"]["problem"] is None


def test_a_configuration_file_that_is_broken_is_named(factory):
    (factory.device.folder / "etc/sota/conf.d/zz-broken.toml").write_text("[[[")
    done = look(factory, "status")
    assert done.returncode == REFUSED
    assert "zz-broken.toml is not TOML" in facts(done)["problem"]


def test_a_module_that_is_missing_is_named(token):
    token.device.module = "/nowhere/module.so"
    done = look(token, "status")
    assert done.returncode == REFUSED
    assert "/nowhere/module.so is missing" in facts(done)["problem"]


@pytest.mark.parametrize("content", ["{]", "[]", '{"rotation": {}, "requested": null, "events": []}', "null"])
def test_a_journal_that_is_broken_is_said_to_be_and_left_as_it_is(files, content):
    journals.write_earlier(files.device.storage, content)
    journal = journals.path(files.device.storage)
    done = look(files, "status")
    assert done.returncode == DONE
    assert f"{journal} is damaged" in facts(done)["pending"]
    assert facts(done)["events"] == "unknown"
    assert as_json(files)["journal_problem"]


def test_a_key_that_does_not_belong_to_the_certificate_is_said_to_be(files):
    other = files.pki.server_identity()
    (files.device.storage / "pkey.pem").write_bytes(key_pem(other.key))
    done = look(files, "status")
    assert done.returncode == REFUSED
    assert "do not belong together" in facts(done)["problem"]


def test_somebody_who_is_not_root_is_told_what_only_root_may_read(capsys):
    with reachable_folder() as folder, running_factory(folder / "device", "file") as factory:
        device = factory.device
        os.chown(folder / "device", NOBODY, -1)
        device.sota_toml.chmod(0o600)
        settings = Settings.of(make_parser().parse_args(["status"]), device.environment())
        for command, show in {"status": status.run, "slots": slots.run, "check": check.run}.items():
            options = make_parser().parse_args([command])
            show(options, settings)  # loads what only root may load
            capsys.readouterr()
            with unprivileged():
                try:
                    ended, said = show(options, settings), capsys.readouterr().out
                except RequestRefusedError as error:
                    ended, said = REFUSED, str(error)
            assert ended == (2 if command == "check" else REFUSED)
            assert f"{device.sota_toml} cannot be read: Permission denied; run this as root" in said
            if command == "status":
                assert "last rotation  unknown\npending        unknown: " in said


# How it looks


def test_lines_fit_the_console_and_are_ascii_where_it_knows_no_more(token):
    shown = on_terminal(token.device, "status", environment={"PYTHONIOENCODING": "ascii"}, columns=60)
    assert shown.text.isascii()
    assert [line for line in shown.lines if len(line) > 60] == []


def test_a_console_that_does_not_know_its_size_is_eighty_columns_wide(token):
    assert max(map(len, on_terminal(token.device, "status").lines)) <= 80
