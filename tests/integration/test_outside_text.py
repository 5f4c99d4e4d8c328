"""What servers, certificates and files choose of what is said: no terminal obeys it, no line of it looks like ours."""

import json
import subprocess
import sys

import pytest

from handler.exit_status import PENDING, REFUSED
from tests.simulators.device import REPOSITORY
from tests.simulators.factory import running_factory

ID = "certs-outside"
pytestmark = pytest.mark.requested(ID)
FORGED = "renew-client-cert: rotation complete"
EVIL = f"\x1b[2J\x1b]0;t\x07\u202e\r\n{FORGED}\n\x9b31m"
IN_A_HEADER = "\x1b[2J\x07\u202e\x9b31m"
ENROL = ("POST", "/simplereenroll")


def as_header(text):
    """Give the text as http.server writes headers: by the byte."""
    return text.encode().decode("latin-1")


def expect_harmless(factory, status, quoted="[2J"):
    """Rotate, look at it with everything that looks, and find nothing anywhere that a terminal would obey."""
    device = factory.device
    said = []
    for arguments, wanted in (
        ((), status),
        (("-v", "resume"), None),
        (("status",), 0),
        (("log",), 0),
        (("check",), None),
    ):
        done = device.run(*arguments)
        assert wanted is None or done.returncode == wanted, done.stderr
        assert "Traceback" not in done.stderr
        said += [done.stdout, done.stderr]
    details = [event["event"].get("details", "") for event in factory.gateway.events]
    history = (device.storage / "renew-client-cert/history.jsonl").read_text()
    assert any(quoted in each for each in (*said, *details))
    for text in (*said, history, *(json.dumps(each, ensure_ascii=False) for each in details)):
        assert [each for each in text if not each.isprintable() and each != "\n"] == []
        assert [line for line in text.splitlines() if line.startswith(FORGED)] == []
    for detail in details:
        assert detail.isprintable() or not detail


@pytest.mark.parametrize("status", [403, 500])
def test_an_error_page_of_the_est_server(files, status):
    files.est.faults.add(*ENROL, times=None, status=status, headers={"Retry-After": "3000"}, body=EVIL)
    expect_harmless(files, REFUSED if status == 403 else PENDING)


def test_the_content_type_of_an_answer(files):
    files.est.faults.add(*ENROL, times=None, status=200, headers={"Content-Type": as_header(IN_A_HEADER)}, body="no")
    expect_harmless(files, PENDING)


def test_a_head_that_a_library_warns_of(files):
    files.est.faults.add(*ENROL, times=None, status=403, headers={"": as_header(IN_A_HEADER)}, body=EVIL)
    expect_harmless(files, REFUSED)


@pytest.mark.parametrize("host", ["\x1bc\x07.example", as_header("\u202e\x1bc.example")], ids=ascii)
def test_the_host_of_a_redirect(files, host):
    files.est.faults.add(*ENROL, times=None, status=302, headers={"Location": f"https://{host}/est"})
    expect_harmless(files, REFUSED, ".example")


def test_an_error_page_of_the_gateway(files):
    files.gateway.faults.add("PATCH", "/device", times=None, status=400, body=EVIL)
    expect_harmless(files, REFUSED)


def test_the_names_of_the_current_certificate(tmp_path):
    with running_factory(tmp_path / "device", "file", san=["\x1b[2J\x07.example"]) as factory:
        factory.device.write_request(ID)
        factory.est.misissue = "no SAN"
        expect_harmless(factory, REFUSED)


def test_the_name_of_the_running_target(files):
    (files.device.storage / "current-target").write_text(f'TARGET_NAME="{IN_A_HEADER}"\nCUSTOM_VERSION="\u202e"\n')
    files.est.faults.add(*ENROL, times=None, status=403, body=EVIL)
    expect_harmless(files, REFUSED)
    for event in files.gateway.events:
        assert (event["event"]["targetName"] + event["event"]["version"]).isprintable()


@pytest.mark.parametrize("signals", ["", "end_in_order()"])
@pytest.mark.parametrize(
    "fault",
    ["fail()", "t = Thread(target=fail); t.start(); t.join()", "Fails()"],
    ids=["here", "thread", "nobody waits"],
)
def test_a_fault_that_quotes_is_shown_and_not_obeyed_wherever_it_happens(signals, fault):
    program = f"""
from threading import Thread
from handler.console.output import set_up_messages
from handler.console.process import end_in_order
def fail(*_): raise RuntimeError({EVIL!r})
class Fails: __del__ = fail
set_up_messages(30, waits=False)
{signals}
{fault}
"""
    command = [sys.executable, "-c", program]
    said = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False).stderr
    assert "a bug in this program" in said
    assert [each for each in said if not each.isprintable() and each != "\n"] == []
    assert [line for line in said.splitlines() if line.startswith(FORGED)] == []
