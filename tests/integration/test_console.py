"""The program on a console: what it says if it cannot continue, if the reader is gone, in 80 columns, in ASCII."""

import os
import re
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from handler.device.completed_rotations import NAME
from handler.exit_status import DONE, PENDING, PROBLEMS, REFUSED, SWITCHED, UNREAD
from handler.journal.pending import read_pending
from tests.privileges import NOBODY, reachable_folder
from tests.simulators.device import REPOSITORY
from tests.simulators.factory import running_factory
from tests.terminal import on_terminal

ID = "certs-console"
(FAKETIME,) = map(str, Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
GOES_ON, NOT_BEGUN = "; `renew-client-cert resume` continues it", "; nothing was started: run it again"


def run(device, command, stdout=subprocess.PIPE, **environment):
    """Run a command as the program is run; give what it did."""
    return subprocess.run(
        command,
        cwd=REPOSITORY,
        env=device.environment() | environment,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )


def unread(device, *arguments, **environment):
    """Run the program with its output in a pipe without a reader."""
    ours, theirs = os.pipe()
    os.close(ours)
    try:
        return run(device, device.command(*arguments), theirs, **environment)
    finally:
        os.close(theirs)


# What goes on


def test_where_no_journal_could_be_written_nothing_is_said_to_go_on(files):
    files.device.write_request(ID)
    strace = [
        "strace",
        "-f",
        "--seccomp-bpf",
        "-qq",
        "-o",
        "/dev/null",
        "-e",
        "trace=mkdir",
        "-e",
        "inject=mkdir:error=ENOSPC",
    ]
    done = run(files.device, [*strace, *files.device.command("rotate")])
    assert done.returncode == PENDING
    assert done.stderr.startswith("renew-client-cert: not now: No space left on device: ")
    assert done.stderr.endswith(NOT_BEGUN + "\n")


def test_where_a_journal_is_left_it_goes_on(files):
    files.device.write_request(ID)
    files.gateway.faults.add("PATCH", "/device", times=None, status=503, headers={"Retry-After": "3000"})
    done = files.device.run("rotate")
    assert done.returncode == PENDING
    assert done.stderr.splitlines()[-1].startswith("renew-client-cert: pending, not before ")
    assert done.stderr.endswith(GOES_ON + "\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_rotation_that_is_interrupted_says_whether_it_goes_on(files, until, number):
    stop = threading.Event()
    files.gateway.faults.add("PATCH", "/device", hang=stop)
    files.device.write_request(ID)
    with files.device.start("rotate") as process:
        until(lambda: ("PATCH", "/device") in files.gateway.calls())
        process.send_signal(number)
        said = process.communicate(timeout=30)[1]
    stop.set()
    assert process.returncode == PENDING
    assert said.splitlines()[-1] == "renew-client-cert: interrupted" + GOES_ON


def test_fioconfig_is_told_of_the_switch_even_by_a_rotation_that_is_interrupted(files, until):
    """Else it would go on with the old key, and store what it fetches for that."""
    files.gateway.faults.add("*", "*", announced=True, times=None, status=503)
    files.device.write_request(ID)
    old = files.device.current_identity()
    with files.device.start() as process:
        until(lambda: files.device.current_identity() != old)
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=30)[1]
    assert process.returncode == SWITCHED
    assert said.splitlines()[-1] == "renew-client-cert: interrupted" + GOES_ON


def test_a_check_that_is_interrupted_begins_nothing_and_goes_on_with_nothing(files, until):
    stop = threading.Event()
    files.gateway.faults.add("GET", "/config-device", hang=stop)
    with files.device.start("check") as process:
        until(lambda: ("GET", "/config-device") in files.gateway.calls())
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=30)[1]
    stop.set()
    assert (process.returncode, said) == (PENDING, "renew-client-cert: interrupted\n")


# As root first, which loads what only root may load.
TWICE = f"""
import os, sys
from handler.cli import main
main(sys.argv[1:])
print("as nobody", file=sys.stderr)
os.setegid({NOBODY})
os.seteuid({NOBODY})
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("arguments", [["log"], ["rotate", "--dry-run"]], ids=" ".join)
def test_somebody_else_than_root_is_told_to_be_root(arguments):
    with reachable_folder() as folder, running_factory(folder / "device", "file") as factory:
        device = factory.device
        (device.storage / "renew-client-cert").mkdir(mode=0o700)
        device.write_request(ID)
        done = run(device, [sys.executable, "-c", TWICE, *arguments])
    assert done.returncode == REFUSED, done.stderr
    said = done.stderr.partition("as nobody\n")[2]
    assert said.startswith("renew-client-cert: refused: ")
    assert "run this as root" in said


def test_a_file_that_cannot_be_read_is_said_without_an_errno():
    with reachable_folder() as folder, running_factory(folder / "device", "file") as factory:
        device = factory.device
        (device.storage / NAME).write_text("{}")
        (device.storage / NAME).chmod(0o600)
        device.storage.chmod(0o755)
        done = run(device, [sys.executable, "-c", TWICE, "status"])
    said = done.stderr.partition("as nobody\n")[2]
    assert f"{NAME} cannot be read (Permission denied): assuming that no rotation was completed" in said


# Where nobody reads


@pytest.mark.parametrize("command", ["status", "check", "slots", "log"])
def test_what_nobody_reads_ends_without_a_word(files, command):
    done = unread(files.device, command)
    assert (done.returncode, done.stderr) == (UNREAD, "")


def test_a_rotation_of_which_nobody_reads_goes_on(factory):
    factory.device.write_request(ID)
    done = unread(factory.device, "rotate", PYTHONUNBUFFERED="1")
    assert done.returncode == DONE, done.stderr
    assert "Traceback" not in done.stderr
    assert factory.gateway.completed(ID)[0]["event"]["success"]


def test_a_rotation_of_which_nobody_reads_takes_the_place_of_a_pending_one(files):
    files.device.write_request("certs-first")
    files.est.faults.add("POST", "/simplereenroll", status=503, headers={"Retry-After": "3000"})
    assert files.device.run("rotate").returncode == PENDING
    files.device.write_request(ID)
    assert unread(files.device, PYTHONUNBUFFERED="1").returncode == SWITCHED


@pytest.mark.parametrize("both", [False, True])
def test_fioconfig_is_told_of_the_switch_though_nobody_reads_the_messages(files, both):
    files.device.write_request(ID)
    for path in (None, "/dev/full"):
        ours, theirs = os.pipe() if path is None else (os.open(path, os.O_RDONLY), os.open(path, os.O_WRONLY))
        os.close(ours)
        out = theirs if both else subprocess.DEVNULL
        command, env = files.device.command(), files.device.environment()
        done = subprocess.run(command, cwd=REPOSITORY, env=env, stdout=out, stderr=theirs, timeout=60, check=False)
        os.close(theirs)
        assert done.returncode == SWITCHED
        files.device.run("resume")
        files.device.write_request(f"{ID}-again")


def test_output_that_finds_no_room_is_said_to(files):
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = run(files.device, files.device.command("status"), full)
    assert done.returncode == PENDING
    words = "cannot write to standard output: No space left on device; make room there"
    assert done.stderr == f"renew-client-cert: {words}\n"


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_that_are_closed_get_nothing_and_harm_nothing(factory, closed):
    factory.device.write_request(ID)
    for arguments in (["status"], ["rotate"]):
        command = ["sh", "-c", f'exec "$@" {closed}', "sh", *factory.device.command(*arguments)]
        done = run(factory.device, command)
        assert done.returncode == DONE, done.stderr
        assert "Traceback" not in done.stderr
    assert factory.gateway.completed(ID)[0]["event"]["success"]


# --quiet


def test_a_quiet_check_says_what_is_not_ok_and_nothing_else(factory):
    factory.device.write_request(ID)
    (factory.device.storage / "client.pem").unlink(missing_ok=True)
    factory.gateway_server.stop()
    loud, quiet = factory.device.run("check"), factory.device.run("check", "--quiet")
    assert quiet.returncode == loud.returncode == PROBLEMS
    *lines, _ = loud.stdout.splitlines()
    wanted = [line for line in lines if not line.startswith("ok ")]
    assert quiet.stdout.splitlines() == wanted
    assert any(line.startswith("problem  ") for line in wanted)


@pytest.mark.parametrize("arguments", [["status", "--json"], ["log"], ["slots"], ["rotate", "--dry-run"]], ids=" ".join)
def test_a_command_that_only_shows_something_shows_it_quietly_too(factory, arguments):
    factory.device.write_request(ID)
    loud, quiet = factory.device.run(*arguments), factory.device.run(*arguments, "-q")
    assert loud.stdout
    assert (quiet.returncode, len(quiet.stdout)) == (loud.returncode, len(loud.stdout))


# Where the clock is not set


def test_a_clock_in_1970_is_said_once_by_check_and_by_status(files):
    files.device.write_request(ID)
    given = {"FAKETIME": "@1970-01-01 00:05:00", "LD_PRELOAD": FAKETIME}
    shown = on_terminal(files.device, "check", environment=given, columns=500)
    assert shown.status == PROBLEMS
    (line,) = [each for each in shown.lines if "  clock " in each]
    assert "shows 1970-01-01 00:05 UTC, but the certificate is valid from " in line
    assert [each for each in shown.lines if "SystemTimeWarning" in each or "warnings.warn" in each] == []
    lines = files.device.run("status", environment=given).stdout.splitlines()
    (line,) = [each for each in lines if each.startswith("valid ")]
    assert line.endswith(" UTC, not valid yet: the clock shows 1970-01-01 00:05 UTC")


# In ASCII

GREETING = "Grüße … 日本"
PLAIN = r"Gr\xfc\xdfe ... \u65e5\u672c"


@pytest.mark.parametrize("locale", [{"LC_ALL": "C", "LANG": "de_DE.UTF-8"}, {"LANG": "C"}, {}], ids=str)
def test_the_locale_c_is_heeded_by_a_rotation_its_errors_and_the_log(files, locale):
    files.est.faults.add("POST", "/simplereenroll", times=None, status=400, body=GREETING)
    files.device.write_request(ID)
    shown = on_terminal(files.device, "rotate", environment=locale, columns=500)
    assert shown.status == REFUSED
    assert shown.text.isascii()
    assert "[1/5] Generate new certificate ... failed, " in shown.text
    assert PLAIN in shown.lines[-2]
    for given in (
        on_terminal(files.device, "log", environment=locale, columns=500).text,
        files.device.run("log", environment=locale).stdout,
    ):
        assert given.isascii()
        assert PLAIN in given


@pytest.mark.parametrize("locale", [{"LC_ALL": "C.UTF-8"}, {"LC_CTYPE": "C.UTF-8", "LANG": "C.UTF-8"}], ids=str)
def test_another_locale_gets_every_character(files, locale):
    files.est.faults.add("POST", "/simplereenroll", times=None, status=400, body=GREETING)
    files.device.write_request(ID)
    shown = on_terminal(files.device, "rotate", environment=locale, columns=500)
    assert "[1/5] Generate new certificate … failed, " in shown.text
    assert GREETING in shown.lines[-2]


def test_wrong_usage_is_ascii_too(files):
    assert on_terminal(files.device, "rotate", "Grüße", environment={"LC_ALL": "C"}).text.isascii()


# In 80 columns


def too_wide(shown, columns=80):
    return [line for line in shown.lines if len(line) > columns]


@pytest.mark.parametrize("columns", [0, 60, 80])
def test_whatever_is_shown_fits_the_terminal(files, columns):
    """0: a serial line that does not know its size counts as 80 columns wide."""
    device, width = files.device, columns or 80
    device.write_request(ID)
    files.gateway.faults.add("PATCH", "/config", status=403, body="these files are not yours, " * 9)
    for arguments, status in (
        (["rotate", "--dry-run"], DONE),
        (["rotate"], REFUSED),
        (["log"], DONE),
        (["status"], DONE),
        (["resume"], DONE),
        (["log"], DONE),
        (["rotate"], DONE),
        (["rotate", "--rotation-id", "not an id " * 9], REFUSED),
    ):
        shown = on_terminal(device, *arguments, columns=columns)
        assert shown.status == status, shown.text
        assert too_wide(shown, width) == [], arguments
        if arguments == ["rotate"] and status == REFUSED:
            assert too_wide(shown, width - 20), "it uses the width that there is"


def test_a_person_who_has_seen_why_is_told_what_to_do_next(files):
    files.device.write_request(ID)
    files.est.faults.add("POST", "*", status=503, headers={"Retry-After": "3600"})
    lines = on_terminal(files.device, "rotate", columns=200).lines
    until = datetime.fromisoformat(read_pending(files.device.storage).waiting.until).astimezone(UTC)
    assert lines[-1] == (
        f"renew-client-cert: pending, not before {until:%Y-%m-%d %H:%M:%S} UTC; `renew-client-cert resume` continues it"
    )
    done = files.device.run()
    assert f"pending, not before {until:%Y-%m-%d %H:%M:%S} UTC: EST server" in done.stderr
    assert "not contacting it yet" in done.stderr
    files.est.faults.add("POST", "*", status=400, body=b"no such profile")
    lines = on_terminal(files.device, "resume", columns=200).lines
    assert sum("no such profile" in each for each in lines) == 1
    assert lines[-1] == "renew-client-cert: refused; correct that, then rotate again"


def test_a_warning_fits_the_terminal(files):
    files.device.write_request(ID, **{"a_key_that_nobody_knows_" * 5: "1"})
    shown = on_terminal(files.device, "rotate", columns=80)
    assert shown.status == DONE
    assert any(line.startswith("warning: line ") for line in shown.lines)
    assert too_wide(shown) == []


def test_the_log_folds_the_name_of_a_long_event_below_its_beginning(files):
    files.device.write_request(ID)
    assert files.device.run("rotate").returncode == DONE
    lines = on_terminal(files.device, "log", columns=80).lines
    (first,) = [number for number, line in enumerate(lines) if "Update device specific" in line]
    assert re.fullmatch(r"  \S{10} \S{8}  Update device specific configuration on server +ok", lines[first])
    assert lines[first + 1] == 23 * " " + "with new key"
    assert len({line.rindex("ok") for line in lines if line.endswith("ok")}) == 1


def test_wrong_usage_fits_the_terminal(files):
    shown = on_terminal(files.device, "rotate", "--if-due", "abc", columns=80)
    assert too_wide(shown) == []
    assert "'abc': expected a share of a certificate's lifetime, such as 0.33" in " ".join(shown.text.split())
