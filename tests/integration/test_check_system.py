"""`check` of the system around the program: units, fioconfig's handler, the user; and how its lines look."""

import os
import re

import pytest

from handler.commands.check import Result, exit_status, lines_of, summary
from handler.commands.checks.system import SystemChecks
from handler.console.terminal import Console
from handler.device.services import Services
from tests.terminal import on_terminal

from .checking import found

ID = "certs-check"


class Systemd:
    """A systemctl that answers as a test says."""

    def __init__(self, folder):
        self._folder = folder
        (folder / "run").mkdir()
        self._handler = folder / "handler"
        self._handler.write_text("from handler.cli import main")
        self._handler.chmod(0o755)
        self.units = {
            "fioconfig.service": ("loaded", "active", "enabled"),
            "aktualizr-lite.service": ("loaded", "active", "enabled"),
            "renew-client-cert.service": ("loaded", "inactive", "static"),
            "renew-client-cert.path": ("loaded", "active", "enabled"),
            "renew-client-cert-offline.service": ("loaded", "inactive", "enabled"),
        }

    def system(self, user=0, **services):
        names = ("LoadState", "ActiveState", "UnitFileState")
        for unit, states in self.units.items():
            pairs = zip(names, states, strict=True)
            (self._folder / unit).write_text("".join(f"{name}={state}\n" for name, state in pairs))
        systemctl = self._folder / "systemctl"
        systemctl.write_text(f'#!/bin/sh\nexec cat "{self._folder}/$3"\n')
        systemctl.chmod(0o755)
        return SystemChecks(Services(self._folder / "run", **services), self._handler, lambda: user)

    @property
    def handler(self):
        return self._handler


@pytest.fixture
def systemd(tmp_path, monkeypatch):
    folder = tmp_path / "systemd"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    return Systemd(folder)


def test_a_device_that_is_ready_ends_with_zero(factory, systemd):
    factory.device.write_request(ID)
    all_found = found(factory, systemd.system())
    assert {each.level for each in all_found} == {"ok"}
    assert exit_status({each.level for each in all_found}) == 0
    assert summary(all_found) == "all ok: a rotation can go ahead"


@pytest.mark.parametrize(
    ("unit", "states", "level", "words"),
    [
        ("fioconfig.service", ("not-found", "inactive", ""), "warning", "fioconfig.service is not installed"),
        ("aktualizr-lite.service", ("not-found", "inactive", ""), "warning", "aktualizr-lite.service is not installed"),
        ("renew-client-cert.service", ("not-found", "inactive", ""), "problem", "nothing resumes a rotation"),
        ("renew-client-cert.path", ("not-found", "inactive", ""), "problem", "install renew-client-cert again"),
        ("renew-client-cert.path", ("loaded", "inactive", "disabled"), "warning", "systemctl enable --now"),
        ("renew-client-cert.path", ("loaded", "failed", "enabled"), "warning", "systemctl start"),
        ("renew-client-cert-offline.service", ("loaded", "inactive", "disabled"), "warning", "is disabled"),
    ],
)
def test_a_unit_that_is_not_as_it_should_be_is_named(files, systemd, unit, states, level, words):
    systemd.units[unit] = states
    (finding,) = [each for each in found(files, systemd.system()) if each.level not in ("ok", "skipped")]
    assert (finding.level, unit in finding.text, words in finding.text) == (level, True, True)


@pytest.mark.parametrize(
    ("content", "mode", "level", "words"),
    [
        (None, 0, "warning", "does not exist"),
        ("#!/bin/sh\nfioconfig renew-cert\n", 0o755, "warning", "is another program"),
        ("from handler.cli import main", 0o644, "problem", "chmod 755"),
    ],
)
def test_a_handler_that_fioconfig_would_not_call_is_named(files, systemd, content, mode, level, words):
    systemd.handler.unlink()
    if content is not None:
        systemd.handler.write_text(content)
        systemd.handler.chmod(mode)
    (finding,) = [each for each in found(files, systemd.system()) if each.level not in ("ok", "skipped")]
    assert (finding.level, finding.topic, words in finding.text) == (level, "handler", True)


def test_somebody_else_than_root_is_warned(files, systemd):
    (finding,) = [each for each in found(files, systemd.system(user=1000)) if each.level not in ("ok", "skipped")]
    assert (finding.level, finding.topic) == ("warning", "user")


# How it looks


def test_lines_are_folded_and_coloured_on_a_terminal_only(files):
    environment = {"TERM": "xterm"}
    shown = on_terminal(files.device, "check", environment=environment, columns=80).text
    assert "\033[32mok" in shown
    plain = re.sub(r"\033\[[0-9;]*m", "", shown)
    assert [line for line in plain.splitlines() if len(line) > 80] == []
    assert "\033" not in on_terminal(files.device, "check", environment=environment | {"NO_COLOR": "1"}).text
    assert "\033" not in files.device.run("check", environment=environment).stdout


def test_a_line_keeps_its_columns_when_it_is_folded_and_coloured():
    finding = Result("problem", "gateway", "cannot be reached by anybody")
    lines = list(lines_of(finding, Console(45, colours=True)))
    assert lines == ["\033[1;31mproblem  \033[0mgateway        cannot be reached by", " " * 24 + "anybody"]
