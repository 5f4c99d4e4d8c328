"""Executables in hooks.d run after the proof and after a roll-back, and nothing that they do stops a rotation."""

import os
import re
import signal
import threading

import pytest

from handler.device.services import Services
from handler.exit_status import DONE, PENDING, REFUSED, SWITCHED
from tests import journal as journals
from tests.invariants import broken_invariants

from .checking import found
from .in_process import LIMITS, call
from .test_check_system import Systemd

ID = "certs-hooks"
SECRETS = re.compile(r"pin|pkcs11|softhsm|module", re.IGNORECASE)


class Hooks:
    """A folder of hooks, and what they wrote down."""

    def __init__(self, tmp_path, device):
        self.folder, self.log = tmp_path / "hooks.d", tmp_path / "log"
        self.folder.mkdir(mode=0o755)
        self.log.touch()
        self.device = device
        self.services = Services(tmp_path / "nowhere", hooks=[self.folder])
        self.add(
            "10-note", f'echo "$RESULT $ROTATIONID $OLD_KEY $OLD_CERTIFICATE $NEW_KEY $NEW_CERTIFICATE" >> {self.log}'
        )

    def add(self, name, script):
        path = self.folder / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return path

    @property
    def lines(self):
        return self.log.read_text().splitlines()

    def call(self, command=None, **options):
        return call(self.device, command, services=self.services, **options)


@pytest.fixture
def hooks(factory, tmp_path):
    factory.device.write_request(ID)
    return Hooks(tmp_path, factory.device)


@pytest.fixture
def file_hooks(files, tmp_path):
    files.device.write_request(ID)
    return Hooks(tmp_path, files.device)


def in_use(device):
    """Give the two names in sota.toml."""
    sota = device.sota()
    if device.token:
        return f"{sota['p11']['tls_pkey_id']} {sota['p11']['tls_clientcert_id']}"
    return f"{sota['import']['tls_pkey_path']} {sota['import']['tls_clientcert_path']}"


def completions(factory):
    return [event["event"] for event in factory.gateway.events if event["eventType"]["id"] == "CertRotationCompleted"]


@pytest.mark.parametrize("how", ["fioconfig", "by hand", "daemon"])
def test_they_are_told_what_changed_however_the_rotation_is_called(factory, hooks, how):
    old = in_use(factory.device)
    hooks.add("20-seen", f"cp $STORAGE_DIR/sota.toml {hooks.folder.parent}/seen; env > {hooks.folder.parent}/env")
    if how == "daemon":
        fault = factory.gateway.faults.add("PATCH", "/config", times=None, status=500)
        assert hooks.call(limits=LIMITS).status == PENDING
        factory.gateway.faults.clear()
        assert fault.used
        assert hooks.lines == []
    command, status = {"fioconfig": (None, SWITCHED), "by hand": ("rotate", DONE), "daemon": ("unattended", DONE)}[how]
    assert hooks.call(command).status == status
    assert hooks.lines == [f"success {ID} {old} {in_use(factory.device)}"]
    assert (hooks.folder.parent / "seen").read_bytes() == factory.device.sota_toml.read_bytes()
    environment = (hooks.folder.parent / "env").read_text()
    assert not SECRETS.search(environment.replace(str(factory.device.storage), ""))
    if factory.device.token:
        assert factory.device.token.pin not in environment
    assert hooks.call("resume").status == DONE
    assert len(hooks.lines) == 1, "once is enough"
    assert completions(factory) == [completions(factory)[0]]
    assert broken_invariants(factory, ID, completed=True) == []


def test_they_run_after_a_roll_back(factory, hooks):
    old = in_use(factory.device)
    factory.gateway.refuse_new_certificate = 403
    assert hooks.call("rotate").status == REFUSED
    (line,) = hooks.lines
    assert line.startswith(f"rolled-back {ID} {old} ")
    assert old == in_use(factory.device)
    assert hooks.call("resume").status == DONE
    assert len(hooks.lines) == 1


def test_they_do_not_run_where_nothing_changed(files, file_hooks):
    files.est.faults.add("POST", "/simplereenroll", status=400)
    assert file_hooks.call("rotate").status == REFUSED
    assert file_hooks.call("abort").status == DONE
    assert file_hooks.lines == []


def test_one_that_fails_is_reported_and_the_rotation_is_complete_all_the_same(files, file_hooks):
    path = file_hooks.add("05-vpn", r"printf 'no \033[31mVPN\n'; exit 3")
    said = f"hook {path} ended with status 3: no \\x1b[31mVPN"
    assert file_hooks.call("rotate").status == DONE
    assert len(file_hooks.lines) == 1
    first, second = completions(files)
    assert (first["success"], first.get("details")) == (True, None)
    assert (second["success"], second["details"]) == (True, said)
    assert files.gateway.events[-1]["event"] == second
    assert journals.is_idle(files.device.storage)


def test_one_that_fails_is_reported_with_the_roll_back(files, file_hooks):
    path = file_hooks.add("05-vpn", "exit 3")
    files.gateway.refuse_new_certificate = 403
    assert "hook" not in file_hooks.call("rotate").said
    (event,) = completions(files)
    assert not event["success"]
    assert event["details"].startswith("rolled back, the device gateway refused the new certificate")
    assert event["details"].endswith(f"; hook {path} ended with status 3")


def test_one_that_others_can_change_does_not_run_and_is_reported(files, file_hooks):
    (file_hooks.folder / "10-note").chmod(0o777)
    assert file_hooks.call("rotate").status == DONE
    assert file_hooks.lines == []
    assert "was not run: " in completions(files)[-1]["details"]


@pytest.mark.parametrize("refuses", [False, True])
def test_they_run_again_after_a_cut(files, file_hooks, refuses):
    files.gateway.refuse_new_certificate = 403 if refuses else None
    waits = file_hooks.folder.parent / "waits"
    os.mkfifo(waits)
    once = file_hooks.add("20-once", f"rm {file_hooks.folder}/20-once; echo here > {waits}; read never < {waits}")

    def end():
        waits.read_text()
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=end)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        file_hooks.call("rotate")
    thread.join()
    assert not once.exists()
    assert len(file_hooks.lines) == 1
    file_hooks.call("resume")
    assert len(file_hooks.lines) == 2
    assert file_hooks.lines[0] == file_hooks.lines[1]
    assert file_hooks.lines[0].startswith("rolled-back" if refuses else "success")
    assert broken_invariants(files, ID, completed=not refuses) == []


def test_they_run_after_a_roll_back_of_a_switch_that_was_cut_off(files, file_hooks):
    old = in_use(files.device)
    files.gateway.faults.add("POST", "/events", times=None, status=500)
    files.gateway.faults.add("GET", "/config-device", skip=2, times=None, status=500)
    assert file_hooks.call("rotate").status == PENDING
    new = in_use(files.device)
    content = journals.read(files.device.storage)
    assert (content["rotation"]["step"], new != old) == (5, True)
    content["rotation"] |= {"step": 4, "reported": False}
    content["events"].pop()
    journals.write(files.device.storage, content)
    files.gateway.faults.clear()
    assert file_hooks.call("abort").status == DONE
    assert in_use(files.device) == old
    assert file_hooks.lines == [f"rolled-back {ID} {old} {new}"]


def test_they_run_again_where_a_configuration_that_was_put_back_is_switched_again(files, file_hooks):
    backup = files.device.sota_toml.read_bytes()
    assert file_hooks.call().status == SWITCHED
    files.device.sota_toml.write_bytes(backup)
    assert file_hooks.call("resume").status == DONE
    assert len(file_hooks.lines) == 2
    assert broken_invariants(files, ID, completed=True) == []


def test_their_time_is_not_the_networks(files, file_hooks):
    file_hooks.add("20-slow", "sleep 2")
    path = file_hooks.add("30-fails", "exit 1")
    assert file_hooks.call("rotate", limits=LIMITS.__class__(total=2.0, connect=1.0, read=1.0)).status == DONE
    assert completions(files)[-1]["details"] == f"hook {path} ended with status 1"
    assert journals.is_idle(files.device.storage)


def test_check_names_those_that_run_and_those_that_do_not(files, file_hooks, tmp_path):
    readme = file_hooks.folder / "README"
    readme.write_text("what is in here")
    mine = file_hooks.folder / "10-note"
    bad = file_hooks.add("30-bad", "exit 0")
    bad.chmod(0o775)
    (tmp_path / "systemd").mkdir()
    system = Systemd(tmp_path / "systemd").system(hooks=[file_hooks.folder])
    why = f"{bad} can be written by users other than root (mode 0775); only root may be able to change it"
    assert [(each.level, each.text) for each in found(files, system) if each.topic == "hooks"] == [
        ("ok", f"{mine} runs after a rotation"),
        (
            "warning",
            f"{bad} does not run: {why}",
        ),
        ("warning", f"{readme} is not executable, so it does not run: chmod 755"),
    ]
