"""systemctl, as a little program on disk that writes down what it was asked and answers as a test says."""

import logging

import pytest

from handler.device.services import AKTUALIZR, FIOCONFIG, Services

SHOW = f"show --property=ActiveState --value {AKTUALIZR}"


class Systemd:
    """A device's systemd: its runtime folder, and a systemctl whose answers are files."""

    def __init__(self, folder):
        self.folder = folder
        self.runtime = folder / "run"
        self.runtime.mkdir()
        self.systemctl = folder / "systemctl"
        self.answer("show", "echo active")

    def answer(self, verb, command):
        """Let that verb run a command of the shell; any other only succeeds."""
        (self.folder / f"on-{verb}").write_text(command)
        script = (
            f'#!/bin/sh\necho "$*" >>"{self.folder}/log"\n[ ! -e "{self.folder}/on-$1" ] || . "{self.folder}/on-$1"\n'
        )
        self.systemctl.write_text(script)
        self.systemctl.chmod(0o755)

    @property
    def calls(self):
        log = self.folder / "log"
        return log.read_text().splitlines() if log.exists() else []

    def services(self):
        return Services(self.runtime, str(self.systemctl))


@pytest.fixture
def systemd(tmp_path):
    return Systemd(tmp_path)


@pytest.fixture
def services(systemd):
    return systemd.services()


@pytest.fixture
def nowhere(systemd):
    """Give the services of a device on which systemd does not run, though there is a systemctl."""
    systemd.runtime.rmdir()
    return systemd.services()


def test_systemd_runs_where_its_folder_is(services, tmp_path):
    assert services.available
    assert not Services(tmp_path / "missing").available


def test_file_in_the_place_of_the_folder_is_no_systemd(tmp_path):
    (tmp_path / "run").touch()
    assert not Services(tmp_path / "run").available


@pytest.mark.parametrize("state", ["active", "activating", "reloading"])
def test_unit_that_runs_or_soon_will_is_active(systemd, services, state):
    systemd.answer("show", f"echo {state}")
    assert services.is_active(AKTUALIZR)
    assert systemd.calls == [SHOW]


@pytest.mark.parametrize("state", ["inactive", "failed", "deactivating", "maintenance", "", "active active"])
def test_unit_in_any_other_state_is_not_active(systemd, services, state):
    systemd.answer("show", f"echo '{state}'")
    assert not services.is_active(AKTUALIZR)


def test_unit_whose_state_cannot_be_asked_is_not_active(systemd, services, caplog):
    systemd.answer("show", "echo active; echo 'Failed to connect\nto bus' >&2; exit 1")
    assert not services.is_active(AKTUALIZR)
    assert f"systemctl {SHOW}: Failed to connect to bus" in caplog.text


def test_nothing_is_active_and_nothing_asked_where_systemd_does_not_run(systemd, nowhere):
    assert not nowhere.is_active(FIOCONFIG)
    assert systemd.calls == []


def test_stopped_unit_is_told(systemd, services):
    assert services.stop(FIOCONFIG)
    assert systemd.calls == ["stop fioconfig.service"]


def test_unit_that_cannot_be_stopped_is_told_with_a_warning(systemd, services, caplog):
    systemd.answer("stop", "echo 'Access denied' >&2; exit 4")
    assert not services.stop(FIOCONFIG)
    assert [(each.levelno, each.getMessage()) for each in caplog.records] == [
        (logging.WARNING, "systemctl stop fioconfig.service: Access denied")
    ]


def test_unit_that_failed_too_often_is_started_all_the_same(systemd, services):
    assert services.start(FIOCONFIG)
    assert systemd.calls == ["reset-failed fioconfig.service", "start fioconfig.service"]


def test_unit_without_failures_to_reset_is_started_all_the_same(systemd, services):
    systemd.answer("reset-failed", "exit 1")
    assert services.start(FIOCONFIG)
    assert systemd.calls[-1] == "start fioconfig.service"


def test_unit_that_cannot_be_started_is_told_with_the_status_where_there_are_no_words(systemd, services, caplog):
    systemd.answer("start", "exit 5")
    assert not services.start(FIOCONFIG)
    assert "systemctl start fioconfig.service: 5" in caplog.text


def test_missing_systemctl_is_a_warning_and_no_failure(systemd, services, caplog):
    systemd.systemctl.unlink()
    assert not services.stop(FIOCONFIG)
    assert not services.start(FIOCONFIG)
    assert not services.is_active(FIOCONFIG)
    services.restart_aktualizr()
    assert {each.levelno for each in caplog.records} == {logging.WARNING}
    assert "systemctl stop fioconfig.service: " in caplog.text


def test_systemctl_that_cannot_be_run_is_a_warning_and_no_failure(systemd, services, caplog):
    systemd.systemctl.chmod(0o600)
    assert not services.stop(FIOCONFIG)
    assert "Permission denied" in caplog.text


def test_systemctl_that_hangs_is_a_warning_and_no_failure(systemd, caplog):
    systemd.answer("stop", "exec tail -f /dev/null")
    assert not Services(systemd.runtime, str(systemd.systemctl), timeout=0.1).stop(FIOCONFIG)
    assert "timed out" in caplog.text


def test_words_of_systemctl_that_are_no_utf_8_are_a_warning_and_no_failure(systemd, services, caplog):
    systemd.answer("stop", r"printf 'Zugriff verweigert f\374r' >&2; exit 1")
    assert not services.stop(FIOCONFIG)
    assert "Zugriff verweigert f\N{REPLACEMENT CHARACTER}r" in caplog.text


def test_systemctl_is_found_by_its_path(systemd, monkeypatch):
    monkeypatch.setenv("PATH", f"{systemd.folder}:/usr/bin:/bin")
    assert Services(systemd.runtime).stop(FIOCONFIG)
    assert systemd.calls == ["stop fioconfig.service"]


def test_aktualizr_that_runs_is_restarted_after_its_count_of_starts_was_cleared(systemd, services, caplog):
    services.restart_aktualizr()
    assert systemd.calls == [SHOW, f"reset-failed {AKTUALIZR}", f"try-restart {AKTUALIZR}"]
    assert caplog.records == []


def test_aktualizr_that_does_not_run_is_left_alone(systemd, services):
    systemd.answer("show", "echo inactive")
    services.restart_aktualizr()
    assert systemd.calls == [SHOW]


def test_aktualizr_that_cannot_be_restarted_is_a_warning(systemd, services, caplog):
    systemd.answer("try-restart", "echo 'Job failed' >&2; exit 1")
    services.restart_aktualizr()
    assert f"systemctl try-restart {AKTUALIZR}: Job failed" in caplog.text


def test_person_is_told_to_restart_aktualizr_where_systemd_does_not_run(systemd, nowhere, caplog):
    nowhere.restart_aktualizr()
    assert "restart aktualizr-lite" in caplog.text
    assert systemd.calls == []


def test_a_process_knows_the_service_that_it_runs_inside(tmp_path):
    cgroup = tmp_path / "cgroup"
    cgroup.write_text("0::/system.slice/fioconfig.service\n")
    services = Services(tmp_path, cgroup=cgroup)
    assert services.contains_us("fioconfig.service")
    assert not services.contains_us("aktualizr-lite.service")
    assert not Services(tmp_path, cgroup=tmp_path / "nowhere").contains_us("fioconfig.service")
