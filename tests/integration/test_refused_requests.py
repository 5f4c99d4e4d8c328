"""A refused request is reported: once for each kind, later if the gateway is down; it touches nothing else."""

import json

import pytest

from handler.exit_status import DONE, PROBLEMS, REFUSED, SWITCHED
from handler.journal.pending import marker
from tests import journal as journals
from tests import softhsm
from tests.simulators.factory import running_factory

from .checking import replaced
from .daemons import QUICK, ended, running, systemd
from .left_behind import ID, left_after

__all__ = ["systemd"]
REPORTED = ["CertRotationStarted failed", "CertRotationCompleted failed"]
EST = "https://est.example/.well-known/est"
FORMS = [("\n", b""), ("\r\n", b""), ("\r\n", b"\xef\xbb\xbf"), ("\n\n", b"# by fioctl\n")]
LINES = {"ESTSERVER": EST, "PKEYIDS": "01,07", "CERTIDS": "03,09", "ROTATIONID": "certs-9"}
WRONG = {
    "plain http": {"ESTSERVER": "http://est.example/est"},
    "no server": {"ESTSERVER": None},
    "one key id": {"PKEYIDS": "01"},
    "no certificate ids": {"CERTIDS": ""},
    "csrattrs": {"EST_CSRATTRS": "maybe"},
    "no equals sign": {"nonsense": ""},
    "a control character": {"NOTE": "a\x07b"},
    "no text": {"NOTE": "caf\udce9"},
    "twice": {"ESTSERVER": f"{EST}\nESTSERVER=https://other.example"},
}
"""What is wrong -> what stands in the place of the right lines."""


def text_of(wrong, line_end="\n", mark=b""):
    """Give a request file that has something wrong; the ROTATIONID comes last."""
    lines = {name: text for name, text in ({**LINES, **WRONG[wrong]}).items() if name != "ROTATIONID"}
    lines = [name if name == "nonsense" else f"{name}={text}" for name, text in lines.items() if text is not None]
    text = line_end.join([*lines, f"ROTATIONID={LINES['ROTATIONID']}", ""])
    return mark + text.encode(errors="surrogateescape")


def refused_again(factory, text, *, times=1):
    """Have that request refused, by calls of fioconfig; give what was said the last time."""
    factory.device.request_file.write_bytes(text)
    for _ in range(times):
        before = factory.device.untouched()
        done = factory.device.run()
        assert done.returncode == REFUSED, done.stderr
        assert factory.device.untouched() == before
    return done.stderr


def details(factory, rotation_id):
    return [each["event"]["details"] for each in factory.gateway.unique_events() if _id(each) == rotation_id]


def _id(event):
    return event["event"]["correlationId"]


@pytest.mark.parametrize("wrong", WRONG)
def test_each_kind_of_wrong_request_is_reported_once(token, wrong):
    said = refused_again(token, text_of(wrong), times=3)
    assert token.gateway.event_names("certs-9") == REPORTED
    assert len(set(details(token, "certs-9"))) == 1
    assert " ".join(details(token, "certs-9")[0].split()) in " ".join(said.split())
    assert token.est.requests == []
    assert journals.read(token.device.storage) is None
    assert not marker(token.device.storage).exists()


@pytest.mark.parametrize(("line_end", "mark"), FORMS)
def test_the_rotation_id_is_read_from_every_form_of_the_file(files, line_end, mark):
    refused_again(files, text_of("plain http", line_end, mark))
    assert files.gateway.event_names("certs-9") == REPORTED


@pytest.mark.parametrize(
    "rotation_id", ["", "certs 9", "certs.9", "x" * 129, "certs-9\nROTATIONID=certs-8", "certs-\x1b[31m"]
)
def test_without_one_valid_rotation_id_nothing_is_reported(files, rotation_id):
    refused_again(files, f"ESTSERVER=http://a\nROTATIONID={rotation_id}\n".encode())
    assert files.gateway.requests == []
    assert journals.read(files.device.storage) is None


def test_another_kind_is_reported_and_another_text_of_the_same_is_not(token):
    refused_again(token, b"ESTSERVER=http://a.example\nROTATIONID=certs-9\n")
    refused_again(token, b"ESTSERVER=http://b.example\nROTATIONID=certs-9\n")
    assert token.gateway.event_names() == REPORTED
    refused_again(token, text_of("one key id"))
    refused_again(token, text_of("no certificate ids"))
    assert token.gateway.event_names() == 3 * REPORTED
    refused_again(token, b"ESTSERVER=http://a.example\nROTATIONID=certs-8\n")
    assert token.gateway.event_names("certs-8") == REPORTED


def test_what_the_device_refuses_is_reported_by_its_kind(token):
    device = token.device
    device.write_request("certs-9")
    device.config_encrypted.write_text("{")
    refused_again(token, device.request_file.read_bytes(), times=2)
    assert token.gateway.event_names("certs-9") == REPORTED
    softhsm.add_secret(device.token, 7, label="disk")
    refused_again(token, device.request_file.read_bytes(), times=2)
    assert token.gateway.event_names("certs-9") == 2 * REPORTED


def test_a_wrong_pin_is_reported_once_it_is_right_again(token):
    device = token.device
    hsm = device.hsm_toml
    replaced(hsm, device.token.pin, "999111")
    device.write_request("certs-9")
    refused_again(token, device.request_file.read_bytes(), times=2)
    assert token.gateway.event_names() == []
    assert marker(device.storage).exists()
    replaced(hsm, "999111", device.token.pin)
    assert device.run("resume").returncode == DONE
    assert token.gateway.event_names("certs-9") == REPORTED


def test_a_gateway_that_is_down_hears_of_it_from_the_daemon(files, systemd):
    files.gateway.faults.add("*", "*", times=None, status=503)
    refused_again(files, text_of("plain http"), times=3)
    assert marker(files.device.storage).exists()
    assert len(journals.read(files.device.storage)["events"]) == 2
    files.gateway.faults.clear()
    with running(files, systemd, *QUICK) as daemon:
        ended(daemon)
    assert files.gateway.event_names("certs-9") == REPORTED
    assert not marker(files.device.storage).exists()


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/simplereenroll"), ("PATCH", "/device"), ("PATCH", "/config"), ("POST", "/events")]
)
def test_a_rotation_that_is_pending_is_not_touched_nor_the_request_behind_it(files, method, path):
    device = files.device
    left_after(files, method, path)
    device.write_request("certs-behind")
    device.run()
    before = journals.read(device.storage)
    asked = len(files.est.requests), len(files.gateway.requests)
    refused_again(files, text_of("plain http"), times=2)
    after = journals.read(device.storage)
    assert [_id(each) for each in after["events"]][len(before["events"]) :] == ["certs-9", "certs-9"]
    assert {**after, "events": []} == {**before, "events": []}
    assert (len(files.est.requests), len(files.gateway.requests)) == asked
    device.write_request("certs-behind")
    device.run("rotate")
    device.run("resume")
    assert files.gateway.completed("certs-behind")[-1]["event"]["success"]
    assert files.gateway.event_names("certs-9") == REPORTED


def test_a_rotation_that_is_pending_is_not_dropped_for_one_that_the_checks_refuse(token):
    device = token.device
    left_after(token, "POST", "/simplereenroll")
    before = journals.read(device.storage)["rotation"]
    softhsm.add_secret(device.token, 5, label="disk")
    device.write_request("certs-9", pkeyids="01,05")
    refused_again(token, device.request_file.read_bytes(), times=2)
    assert journals.read(device.storage)["rotation"] == before
    assert device.run("resume").returncode == DONE
    assert token.gateway.event_names("certs-9") == REPORTED


def test_a_rotation_that_goes_on_or_is_complete_is_not_reported_as_failed(files):
    device = files.device
    left_after(files, "PATCH", "/device")
    for _ in range(2):
        device.write_request(ID, estserver="http://a")
        assert device.run().returncode == REFUSED
        device.write_request(ID)
        assert device.run("rotate").returncode == DONE
    assert [each["event"]["success"] for each in files.gateway.completed(ID)] == [True]


def test_looking_reports_nothing(files):
    device = files.device
    device.request_file.write_bytes(text_of("plain http"))
    before = device.snapshot()
    assert device.run("rotate", "--dry-run").returncode == REFUSED
    assert device.run("rotate", "--dry-run", "--json").returncode == REFUSED
    assert device.run("check").returncode == PROBLEMS
    assert files.gateway.event_names() == []
    assert device.snapshot() == before


def test_log_and_status_show_it_until_a_rotation_succeeds(files):
    device = files.device
    refused_again(files, text_of("plain http"))
    shown = " ".join(device.run("log").stdout.split())
    assert "CertRotationStarted failed" in shown
    assert "ESTSERVER 'http://est.example/est' is refused" in shown
    assert "certs-9: failed" in device.run("status").stdout
    status = json.loads(device.run("status", "--json").stdout)
    assert status["last_rotation"]["rotation_id"] == "certs-9"
    assert not status["last_rotation"]["success"]
    assert [each["code"] for each in status["findings"]] == ["rotation-failed"]
    assert len(json.loads(device.run("log", "--json").stdout)["rotations"][0]["events"]) == 2
    device.write_request("certs-9")
    assert device.run().returncode == SWITCHED
    assert json.loads(device.run("status", "--json").stdout)["last_rotation"]["success"]
    assert files.gateway.event_names("certs-9")[:3] == [*REPORTED, "CertRotationStarted"]


def test_started_is_said_with_success_only_after_the_checks(token):
    device = token.device
    device.write_request("certs-9")
    softhsm.add_secret(device.token, 7, label="disk")
    assert device.run().returncode == REFUSED
    assert "CertRotationStarted" not in token.gateway.event_names("certs-9")


def test_the_options_of_rotate_are_reported_under_the_id_that_was_given(files):
    done = files.device.run("rotate", "--est-server", "http://a", "--rotation-id", "certs-hand")
    assert done.returncode == REFUSED
    assert files.gateway.event_names("certs-hand") == REPORTED
    assert files.device.run("rotate", "--est-server", "http://a").returncode == REFUSED
    assert len(files.gateway.event_names()) == 2


@pytest.mark.parametrize("kind", ["file", "token"])
def test_a_storage_folder_that_cannot_be_used_gets_no_journal(tmp_path, kind):
    with running_factory(tmp_path / "device", kind) as factory:
        factory.device.storage.chmod(0o777)
        refused_again(factory, text_of("plain http"))
        assert not (factory.device.storage / "renew-client-cert").exists()
        factory.device.storage.chmod(0o755)
        refused_again(factory, text_of("plain http"))
        assert factory.gateway.event_names("certs-9") == REPORTED
