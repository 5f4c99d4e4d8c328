"""The command line: options over environment and file, what is wrong usage, and one rotation at a time."""

import re
import threading
import time
import tomllib
from importlib.metadata import EntryPoint

import pytest

from handler import __version__
from handler.cli import main
from handler.exit_status import BUG, DONE, PENDING, REFUSED, SWITCHED, USAGE
from handler.journal.pending import read_pending
from tests.simulators.device import REPOSITORY

NOWHERE = {"CONFIG_FILE": "/nowhere/request", "STORAGE_DIR": "/nowhere", "SOTA_DIR": "/nowhere/sota.toml"}


def where(device):
    """Give the options that say where everything is."""
    return "--storage-dir", str(device.storage), "--sota", device.environment()["SOTA_DIR"]


def test_the_package_has_the_entry_point():
    scripts = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["scripts"]
    assert EntryPoint("renew-client-cert", scripts["renew-client-cert"], "console_scripts").load() is main


def test_exit_statuses_are_those_that_the_documentation_promises():
    assert (DONE, BUG, USAGE, PENDING, REFUSED, SWITCHED) == (0, 1, 64, 75, 78, 123)


def test_help_names_the_commands_their_options_and_the_statuses(files):
    done = files.device.run("--help")
    assert done.returncode == 0
    for word in ("rotate", "resume", "--version", "--verbose", "64", "75", "78", "123"):
        assert word in done.stdout
    done = files.device.run("rotate", "--help")
    options = ("config-file", "storage-dir", "sota", "est-server", "rotation-id", "pkey-ids", "cert-ids")
    assert [each for each in options if f"--{each}" not in done.stdout] == []


def test_version_is_the_packages_own(files):
    done = files.device.run("--version")
    assert (done.returncode, done.stdout) == (0, f"renew-client-cert {__version__}\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ["renew"],
        ["--unknown"],
        ["rotate", "--offline"],
        ["resume", "--est-server", "https://a.example"],
        ["rotate", "--pkey-ids"],
        ["rotate", "certs-1"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_named_and_changes_nothing(files, arguments):
    files.device.write_request("certs-1")
    before = files.device.snapshot()
    done = files.device.run(*arguments)
    assert done.returncode == USAGE
    assert "--help" in done.stderr
    assert files.device.snapshot() == before
    assert files.gateway.requests == files.est.requests == []


@pytest.mark.parametrize("arguments", [["status", "--output", "/x"], ["rotate", "--json"]], ids=" ".join)
def test_wrong_usage_shows_the_usage_of_the_command(files, arguments):
    done = files.device.run(*arguments)
    command = f"renew-client-cert {arguments[0]}"
    assert (done.returncode, done.stdout) == (USAGE, "")
    assert done.stderr.startswith(f"usage: {command} [-h]")
    assert f"see {command} --help" in " ".join(done.stderr.split())


def test_the_name_alone_typed_by_a_person_rotates_nothing(files):
    files.device.write_request("certs-1")
    before = files.device.snapshot()
    done = files.device.run(environment={"FIOCONFIG_BIN": "", "CONFIG_FILE": ""})
    assert (done.returncode, done.stdout) == (USAGE, "")
    assert "`renew-client-cert rotate` rotates by hand" in done.stderr
    assert files.device.snapshot() == before
    assert files.gateway.requests == files.est.requests == []


@pytest.mark.parametrize("missing", ["FIOCONFIG_BIN", "CONFIG_FILE"])
def test_either_of_fioconfigs_variables_tells_that_it_called(files, missing):
    files.device.write_request("certs-1")
    elsewhere = {"STORAGE_DIR": "/nowhere"}  # so it is refused
    assert files.device.run(environment={missing: "", **elsewhere}).returncode != USAGE


# rotate


def test_options_override_the_environment(files):
    device = files.device
    device.write_request("certs-1")
    done = device.run("rotate", "--config-file", str(device.request_file), *where(device), environment=NOWHERE)
    assert done.returncode == DONE, done.stderr
    assert files.gateway.completed("certs-1")


def test_options_about_places_may_stand_before_the_command(files):
    device = files.device
    device.write_request("certs-1")
    arguments = (*where(device), "rotate", "--config-file", str(device.request_file))
    assert device.run(*arguments, environment=NOWHERE).returncode == DONE


def test_options_override_the_file(token):
    device = token.device
    wrong = {"estserver": "https://127.0.0.1:9/est", "pkeyids": "02,08", "certids": "04,08"}
    device.write_request("in-the-file", **wrong)
    options = ("--est-server", device.est_url, "--pkey-ids", "1,5", "--cert-ids", "3,6", "--rotation-id", "by-hand")
    done = device.run("rotate", *options)
    assert done.returncode == DONE, done.stderr
    assert (device.current_identity().key, device.current_identity().certificate_name) == ("05", "06")
    assert {each["event"]["correlationId"] for each in token.gateway.events} == {"by-hand"}


def test_without_a_rotation_id_by_hand_it_is_the_time_and_no_other_calls(factory):
    device = factory.device
    device.write_request("certs-1", rotationid=None)
    began = int(time.time())
    for _ in range(2):
        done = device.run("rotate")
        assert done.returncode == DONE, done.stderr
        assert read_pending(device.storage) is None  # it tidies up itself
    names = {each["event"]["correlationId"] for each in factory.gateway.events}
    ids = [re.fullmatch("certs-([0-9]+)-([0-9a-f]{6})", name) for name in names]
    assert [began <= int(found[1]) <= time.time() for found in ids] == [True, True]
    assert len({found[2] for found in ids}) == 2


def test_without_a_file_the_options_are_enough(files):
    device = files.device
    assert not device.request_file.exists()
    done = device.run("rotate", "--est-server", device.est_url)
    assert done.returncode == DONE, done.stderr
    assert len(files.gateway.event_names()) == 7


def test_a_request_that_is_neither_in_a_file_nor_in_options_is_refused(files, refused):
    assert "--est-server" in refused(files, "rotate")


def test_a_named_file_that_is_not_there_is_refused(files, refused):
    said = refused(files, "rotate", "--config-file", "/nowhere/request", "--est-server", files.device.est_url)
    assert "--config-file /nowhere/request" in said


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--est-server", "http://a.example", "https"),
        ("--rotation-id", "certs 1", "letters"),
        ("--pkey-ids", "01,10", "01 to 09"),
        ("--cert-ids", "03", "two ids or more"),
    ],
)
def test_a_wrong_option_is_refused_by_its_name(token, refused, option, value, words):
    token.device.write_request("certs-1")
    said = refused(token, "rotate", option, value)
    assert f"option {option}" in said
    assert words in said


def test_a_rotation_that_is_complete_is_not_done_again_by_hand_either(files):
    device = files.device
    device.write_request("certs-1")
    assert device.run("rotate").returncode == DONE
    requests = len(files.gateway.requests) + len(files.est.requests)
    before = device.snapshot()
    done = device.run("rotate")
    assert (done.returncode, done.stdout) == (DONE, "nothing to do: rotation certs-1 is already complete\n")
    assert device.snapshot() == before
    assert len(files.gateway.requests) + len(files.est.requests) == requests


# resume


@pytest.mark.parametrize("arguments", [["resume"], ["resume", "--offline"]], ids=" ".join)
def test_resuming_with_nothing_pending_does_nothing(factory, arguments):
    factory.device.write_request("certs-1")
    before = factory.device.snapshot()
    done = factory.device.run(*arguments)
    assert done.returncode == DONE
    assert done.stdout.startswith("nothing to do")
    assert factory.device.snapshot() == before
    assert factory.gateway.requests == factory.est.requests == []


def test_resuming_needs_no_request_file(factory, until):
    device, stop = factory.device, threading.Event()
    factory.gateway.faults.add("PATCH", "/config", hang=stop)
    device.write_request("certs-1")
    with device.start() as process:
        until(lambda: ("PATCH", "/config") in factory.gateway.calls())
        process.kill()
        process.communicate()
    stop.set()
    device.request_file.unlink()
    csrs = list(factory.est.csrs)
    done = device.run("resume")
    assert done.returncode == DONE, done.stderr
    assert "[1/5]" not in done.stdout
    assert "[5/5] Finalize aktualizr configuration: ok" in done.stdout
    assert factory.est.csrs == csrs
    assert factory.gateway.event_names("certs-1")[-1] == "CertRotationCompleted"
    assert device.current_identity().public_key == factory.gateway.current
