"""Remote actions, called as fioconfig calls them (fioconfig-oneshot and `fioconfig run-and-report`)."""

import json
import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from handler.device.services import Services
from handler.exit_status import DONE, PENDING, PROBLEMS, REFUSED, SWITCHED
from tests import journal as journals
from tests.simulators.device import REPOSITORY

from .in_process import call
from .left_behind import left_after

ID = "certs-action"
ACTIONS = ("cert-status", "cert-check", "cert-log", "cert-dry-run", "cert-abort")
LATER = {"status": 503, "headers": {"Retry-After": "3000"}, "times": None}


@dataclass(frozen=True)
class Result:
    """What reaches the operators."""

    status: str
    artifacts: dict[str, str]

    @property
    def console(self):
        return self.artifacts["console.log"]


@pytest.fixture
def folder(tmp_path):
    """Give the folder of the actions, which start the program of this tree."""
    made = tmp_path / "actions"
    made.mkdir()
    program = made.parent / "renew-client-cert"
    program.write_text('#!/bin/sh\nexec "$PYTHON" -m handler "$@"\n')
    program.chmod(0o755)
    for name in ACTIONS:
        (made / name).write_text((REPOSITORY / "packaging/action.sh").read_text().replace("@PROGRAM@", str(program)))
        (made / name).chmod(0o755)
    return made


def called(factory, folder, name, *, captured=True, **environment):
    """Call an action as fioconfig does, and give what it reports."""
    own_file = factory.device.request_file.with_name(f"fio-oneshot-{name}")
    own_file.write_text("COMMAND_ID=1234\nCOMMAND_CAPTURE=1\n")
    given = factory.device.environment() | {"CONFIG_FILE": str(own_file), "PYTHON": os.sys.executable} | environment
    with tempfile.TemporaryDirectory(prefix="fioconfig-oneshot.", dir=REPOSITORY / "build") as artifacts:
        if captured:
            given["ARTIFACTS"] = os.path.relpath(artifacts, REPOSITORY)
        done = subprocess.run(
            [folder / name], cwd=REPOSITORY, env=given, stdout=-1, stderr=subprocess.STDOUT, text=True, check=False
        )
        files = {path.name: path.read_text() for path in Path(artifacts).iterdir() if path.is_file()}
    output = done.stdout
    if done.returncode:  # exec.go of current versions
        output = f"Unable to run command: exit status {done.returncode}"
    assert "Traceback" not in done.stdout
    return Result("FAILED" if done.returncode else "PASSED", files | {"console.log": output})


@pytest.fixture(autouse=True)
def build_folder():
    (REPOSITORY / "build").mkdir(exist_ok=True)


def test_a_device_that_is_ready_passes_every_action(factory, folder):
    factory.device.write_request(ID)
    before = factory.device.current_identity()
    for name in ACTIONS:
        result = called(factory, folder, name)
        assert result.status == "PASSED", (name, result)
        assert result.console == result.artifacts[f"{name}.txt"]
        if name != "cert-abort":
            assert json.loads(result.artifacts[f"{name}.json"])["program_version"]
    assert "a rotation can go ahead" in called(factory, folder, "cert-check").console
    assert f"Rotation {ID} would do this" in called(factory, folder, "cert-dry-run").console
    assert factory.device.current_identity() == before


def test_what_keeps_a_rotation_from_succeeding_fails_and_says_why_in_a_file(files, folder):
    files.device.write_request(ID)
    files.device.config_encrypted.write_text("junk")
    check = called(files, folder, "cert-check")
    assert check.status == "FAILED"
    assert check.console == f"Unable to run command: exit status {PROBLEMS}"
    assert "a rotation would fail" in check.artifacts["cert-check.txt"]
    assert json.loads(check.artifacts["cert-check.json"])["exit_status"] == PROBLEMS
    plan = called(files, folder, "cert-dry-run")
    assert plan.console == f"Unable to run command: exit status {REFUSED}"
    assert "config.encrypted" in plan.artifacts["cert-dry-run.txt"]


def test_without_a_request_options_of_fioconfigs_environment_say_where_to_enrol(files, folder):
    assert called(files, folder, "cert-check").status == "PASSED"
    assert "no EST server is known" in called(files, folder, "cert-dry-run").artifacts["cert-dry-run.txt"]
    options = f"--est-server {files.device.est_url}"
    assert called(files, folder, "cert-dry-run", RENEW_CLIENT_CERT_OPTIONS=options).status == "PASSED"


def test_an_action_that_is_not_captured_leaves_no_file(files, folder):
    result = called(files, folder, "cert-status", captured=False)
    assert (result.status, list(result.artifacts)) == ("PASSED", ["console.log"])
    assert result.console.startswith("identity ")


def test_the_abort_action_gives_up_what_is_pending(files, folder):
    files.device.write_request(ID)
    files.est.faults.add("POST", "/simplereenroll", **LATER)
    assert files.device.run("rotate").returncode == PENDING
    result = called(files, folder, "cert-abort")
    assert result.status == "PASSED"
    assert "aborted; the old identity is in use" in result.console
    assert "no rotation" in called(files, folder, "cert-status").console


def test_an_abort_past_the_point_of_no_return_fails(files, folder):
    files.device.write_request(ID)
    assert files.device.run().returncode == SWITCHED
    result = called(files, folder, "cert-abort")
    assert result.status == "FAILED"
    assert "past the point of no return" in result.artifacts["cert-abort.txt"]
    assert files.device.run("resume").returncode == DONE


def test_an_abort_inside_fioconfig_that_would_stop_it_is_noted_and_the_daemon_goes_back(files, tmp_path):
    left_after(files, "PATCH", "/config")
    before = files.device.current_identity()
    log, systemctl, cgroup = tmp_path / "calls", tmp_path / "systemctl", tmp_path / "cgroup"
    systemctl.write_text(f'#!/bin/sh\necho "$*" >>{log}\n[ "$1" != show ] || echo active\n')
    systemctl.chmod(0o755)
    cgroup.write_text("0::/system.slice/fioconfig.service\n")
    outcome = call(files.device, "abort", services=Services(tmp_path, str(systemctl), cgroup=cgroup))
    assert (outcome.status, "runs inside fioconfig.service" in outcome.said) == (PENDING, True)
    assert "stop fioconfig.service" not in log.read_text()
    assert journals.read(files.device.storage)["rotation"]["rollback"] == "given up by hand"
    outside = Services(tmp_path, str(systemctl), cgroup=tmp_path / "nowhere")
    assert call(files.device, "unattended", services=outside).status == DONE
    assert "stop fioconfig.service" in log.read_text()
    assert "start fioconfig.service" in log.read_text()
    assert journals.read(files.device.storage) is None
    assert files.device.current_identity() == before


def test_each_name_is_one_that_fioconfig_takes():
    installed = (REPOSITORY / "packaging/files.sh").read_text()
    assert f"for action in {' '.join(ACTIONS)};" in installed
    assert max(map(len, ACTIONS)) <= 32
