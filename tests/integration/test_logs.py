"""What is written for systemd's journal: priorities, the ROTATIONID in each line; and what -v adds."""

import os
import re
import subprocess

import pytest

from handler.exit_status import DONE, PENDING, REFUSED
from tests.simulators.device import REPOSITORY

from . import daemons

ID = "certs-logged"
LATER = {"status": 503, "headers": {"Retry-After": "3000"}, "times": None}


def journalled(device, tmp_path, *arguments):
    """Run the program as systemd does, on the journal's stream; give its exit status and its lines."""
    path = tmp_path / f"journal-{len(list(tmp_path.iterdir()))}"
    with path.open("w") as stream:
        status = os.fstat(stream.fileno())
        environment = device.environment() | {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        done = subprocess.run(
            device.command(*arguments), cwd=REPOSITORY, env=environment, stdout=stream, stderr=stream, check=False
        )
    lines = path.read_text().splitlines()
    assert [line for line in lines if not re.match(r"<[0-7]>\S", line)] == []
    return done.returncode, [(int(line[1]), line[3:]) for line in lines]


def errors(lines):
    """Give what `journalctl -p err` shows."""
    return [text for priority, text in lines if priority <= 3]


def test_each_line_of_a_rotation_has_a_priority_and_the_rotation_id(factory, tmp_path):
    factory.device.write_request(ID)
    status, lines = journalled(factory.device, tmp_path, "rotate", "-v")
    assert status == DONE
    assert errors(lines) == []
    begun = next(number for number, (_, text) in enumerate(lines) if "[1/5]" in text)
    assert [text for _, text in lines[begun:] if not text.startswith(f"{ID}: ")] == []
    assert {4, 6, 7} <= {priority for priority, _ in lines}


@pytest.mark.parametrize(("fault", "status"), [(LATER, PENDING), ({"status": 404, "times": None}, REFUSED)])
def test_what_failed_is_an_error_and_nothing_else_is(files, tmp_path, fault, status):
    files.device.write_request(ID)
    files.gateway.faults.add("PATCH", "/device", **fault)
    ended, lines = journalled(files.device, tmp_path, "rotate")
    assert ended == status
    shown = errors(lines)
    assert re.match(rf"{ID}: \[2/5\] .*: failed, ", shown[0])
    assert shown[1].startswith(f"{ID}: {'pending, not before ' if status == PENDING else 'refused: '}")
    assert len(shown) == 2


def test_the_daemon_names_the_rotation_too(files, tmp_path, until):
    daemons.cut_off(files, until)
    _, lines = journalled(files.device, tmp_path, "daemon", "--first-delay=0.01", "--longest-delay=0.02")
    assert [text for _, text in lines if text.startswith(f"{daemons.ID}: ")]


def test_a_pipe_gets_no_priorities_though_the_environment_names_a_journal(files):
    files.device.write_request(ID)
    done = files.device.run("rotate", environment={"JOURNAL_STREAM": "8:12345"})
    assert not re.search(r"^<\d>", done.stdout + done.stderr, re.MULTILINE)


@pytest.mark.parametrize("command", ["rotate", "resume", "abort", "status", "check", "slots", "log"])
def test_verbose_shows_more(files, command):
    files.device.write_request(ID)
    verbose, quiet = (files.device.run(command, *more) for more in (("-v",), ()))
    assert len(verbose.stderr.splitlines()) > len(quiet.stderr.splitlines())
    assert "debug: " in verbose.stderr
    assert "debug: " not in quiet.stderr


def test_verbose_shows_each_request_and_no_secret(token):
    token.device.write_request(ID)
    done = token.device.run("rotate", "-v")
    assert re.search(
        r"^debug: EST server \S+: POST /simplereenroll: HTTP 20[01], \d+ bytes$", done.stderr, re.MULTILINE
    )
    assert re.search(r"^debug: device gateway \S+: PATCH /device: HTTP 200, \d+ bytes$", done.stderr, re.MULTILINE)
    assert token.device.token.pin not in done.stderr
