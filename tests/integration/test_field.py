"""What a field engineer reads on a serial console of 80 columns: once, by name, and with what to do next."""

import os
import re
import shlex

import pytest

from handler.commands import check
from handler.console.arguments import make_parser
from handler.console.settings import Settings
from handler.exit_status import DONE, PENDING, PROBLEMS, SWITCHED, USAGE
from tests.modules import COUNT_LOW, FlaggedToken
from tests.privileges import NOBODY, reachable_folder, unprivileged
from tests.simulators.factory import running_factory
from tests.simulators.pki import FactoryPki
from tests.terminal import on_terminal

from .test_roll_back import new_certificate_is_refused

ID = "certs-field"


def test_a_server_that_is_not_trusted_takes_two_lines(files):
    files.device.write_request(ID)
    files.est_server.state.server_identity = FactoryPki().server_identity()
    shown = on_terminal(files.device, "rotate")
    assert shown.status == PENDING
    (at,) = [number for number, line in enumerate(shown.lines) if "failed, " in line]
    reason = [line for line in shown.lines if line.startswith("      ")]
    assert len(reason) <= 2
    assert " ".join(map(str.strip, reason)).endswith("that no CA in import.tls_cacert_path issued")
    assert shown.text.count("tls_cacert_path") == 1
    assert shown.lines[-1] == "renew-client-cert: pending; `renew-client-cert resume` continues it"
    assert at + len(reason) + 1 == len(shown.lines) - 1


def test_each_message_about_a_server_says_which_one_and_what_was_asked(files):
    files.device.write_request(ID)
    files.gateway.faults.add("PATCH", "/device", status=503, headers={"Retry-After": "3000"})
    files.gateway.faults.add("POST", "/events", times=None, drop="before")
    done = files.device.run("rotate", "-v")
    assert done.returncode == PENDING
    gateway = files.gateway_server.url.removeprefix("https://")
    assert f" UTC: device gateway {gateway}: PATCH /device: it answered HTTP 503; " in done.stderr
    assert f"device gateway {gateway}: POST /events: " in done.stderr
    est = files.est_server.url.removeprefix("https://")
    assert f"EST server {est}: POST /simplereenroll: HTTP 201" in done.stderr


def words(done):
    """Give all that was said, in one line."""
    assert "Traceback" not in done.stderr
    return " ".join((done.stdout + done.stderr).split())


# What is pending, and what comes of it


def test_abort_says_of_a_request_that_is_complete_nothing(files):
    files.device.write_request("certs-done")
    assert files.device.run("rotate").returncode == DONE
    files.est.faults.add("POST", "/simplereenroll", times=None, status=503, headers={"Retry-After": "3000"})
    assert files.device.run("rotate", "--rotation-id", ID).returncode == PENDING
    done = files.device.run("abort")
    assert (done.returncode, "still requests" in done.stdout) == (DONE, False)


def test_a_resume_that_only_tidies_says_so(files):
    files.device.write_request(ID)
    assert files.device.run().returncode == SWITCHED
    assert f"cleaned up after rotation {ID}" in words(files.device.run("resume"))
    assert "nothing to do" in words(files.device.run("resume"))


def test_a_rotation_by_hand_that_only_tidies_says_so_too(files):
    files.device.write_request(ID)
    assert files.device.run().returncode == SWITCHED
    assert f"cleaned up after rotation {ID}" in words(files.device.run("rotate"))


def test_another_est_server_beside_a_completed_request_is_another_rotation(factory):
    factory.device.write_request(ID)
    assert factory.device.run("rotate").returncode == DONE
    before = factory.device.current_identity().key
    assert f"rotation {ID} is already complete" in words(factory.device.run("rotate"))
    plan = words(factory.device.run("rotate", "--dry-run", "--est-server", factory.device.est_url))
    assert "Nothing was changed. Rotation certs-" in plan
    done = factory.device.run("rotate", "--est-server", factory.device.est_url)
    assert done.returncode == DONE, done.stderr
    assert factory.device.current_identity().key != before


def test_a_rotation_that_drops_a_pending_one_says_so(files):
    files.device.write_request(ID)
    files.est.faults.add("POST", "/simplereenroll", status=503, headers={"Retry-After": "3000"})
    assert files.device.run("rotate").returncode == PENDING
    done = files.device.run("rotate", "--rotation-id", "certs-other")
    assert done.returncode == DONE, done.stderr
    assert f"rotation {ID}, pending after step 0, is dropped with its new key for rotation certs-other" in done.stdout


def test_a_rotation_that_is_in_use_does_not_keep_the_timer_from_the_next(files):
    files.device.write_request(ID)
    assert files.device.run().returncode == SWITCHED
    assert "of the certificate's lifetime is left" in words(files.device.run("rotate", "--if-due", "0.3"))


def test_after_a_roll_back_nobody_is_told_that_the_old_key_is_the_wrong_one(files):
    files.device.write_request(ID)
    new_certificate_is_refused(files)
    said = words(files.device.run("rotate"))
    assert "old key" not in said.partition("aktualizr-lite")[2]


# The PIN


def test_a_corrected_pin_is_tried_though_the_token_counts_the_attempt_with_the_wrong_one(token, tmp_path):
    device, module = token.device, FlaggedToken(token.device, tmp_path)
    hsm = device.hsm_toml
    right = hsm.read_text()
    hsm.write_text(right.replace(device.token.pin, "1" + device.token.pin))
    assert "PinIncorrect" in words(device.run("check", environment=module.environment(0)))
    low = module.environment(COUNT_LOW)
    assert "has refused this PIN before" in words(device.run("check", environment=low))
    hsm.write_text(right)
    logins = module.logins
    said = words(device.run("check", environment=low))
    assert "the PIN is correct" in said
    assert module.logins == logins + 1
    # Whose attempt the token counts now is not known any more.
    assert "pkcs11-tool --login" in words(device.run("check", environment=low))


# One mistake, one message


def test_a_broken_sota_toml_is_told_once(files):
    files.device.sota_toml.write_text(files.device.sota_toml.read_text() + "[[[")
    done = files.device.run("check", "-q")
    assert done.stdout.count("is not TOML") == 1
    assert "not set" not in done.stdout


def test_somebody_who_is_not_root_gets_one_problem(capsys):
    with reachable_folder() as folder, running_factory(folder / "device", "file") as factory:
        os.chown(folder / "device", NOBODY, -1)
        settings = Settings.of(make_parser().parse_args(["check"]), factory.device.environment())
        options = make_parser().parse_args(["check", "-q"])
        check.run(options, settings)  # loads what only root may load
        capsys.readouterr()
        with unprivileged():
            assert check.run(options, settings) == PROBLEMS
    (line,) = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("warning")]
    assert re.match(rf"problem  user           user {NOBODY}, not root: .*\brun this as root\b", line)


def test_a_broken_sota_toml_is_all_that_slots_names(files):
    files.device.sota_toml.write_text(files.device.sota_toml.read_text() + "[[[")
    said = words(files.device.run("slots"))
    assert said.count("is not TOML") == 1
    assert "not set" not in said


# The log


def test_a_rotation_that_was_rolled_back_is_not_shown_as_completed_before(files):
    files.device.write_request(ID)
    new_certificate_is_refused(files)
    files.device.run("rotate")
    lines = [line for line in files.device.run("log").stdout.splitlines() if "CertRotationCompleted" in line]
    assert [line.split()[-1] for line in lines] == ["failed"]


def test_the_log_gives_the_last_rotations_the_newest_last_and_is_not_folded_in_a_pipe(files):
    files.device.write_request("certs-first")
    files.device.run("rotate")
    files.gateway.faults.add("PATCH", "/device", times=None, status=400, body="no " * 60)
    files.device.run("rotate", "--rotation-id", "certs-second")
    shown = files.device.run("log").stdout
    assert re.findall(r"^rotation (.*)", shown, re.MULTILINE) == ["certs-first", "certs-second"]
    assert max(map(len, shown.splitlines())) > 180
    shown = files.device.run("log", "-n", "1").stdout
    assert re.findall(r"^rotation (.*)", shown, re.MULTILINE) == ["certs-second"]
    assert files.device.run("log", "-n", "0").returncode == USAGE


# Help


@pytest.mark.parametrize("command", ["rotate", "resume", "abort", "status", "check", "slots", "log", "daemon"])
def test_the_help_of_a_command_begins_with_what_it_does_and_an_example(files, command):
    does, example, _ = files.device.run(command, "--help").stdout.split("\n\n", 2)
    assert re.match(r"[A-Z][a-z]+ .*\.$", does.replace("\n", " "))
    arguments = shlex.split(example)
    assert arguments[:2] == ["renew-client-cert", command]
    assert make_parser().parse_args(arguments[1:]).command == command
