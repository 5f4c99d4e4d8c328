"""The installed package under a real systemd: what it starts, when, and what becomes of the device."""

import os
import re
import shutil
import signal
import subprocess
import textwrap
import threading
from pathlib import Path

from handler.journal.pending import marker, read_pending
from tests import journal as journals
from tests.invariants import broken_invariants
from tests.simulators.device import REPOSITORY

from .conftest import DEFAULTS, HANDLER, LOGS, PACKAGE, UNITS
from .udev import announce

ID = "certs-systemd"
DAEMON, PATH, OFFLINE = "renew-client-cert.service", "renew-client-cert.path", "renew-client-cert-offline.service"
ENROL = ("POST", "/simplereenroll")
QUICK = """\
[Service]
ExecStart=
ExecStart=/usr/sbin/renew-client-cert daemon --first-delay 0.2 --longest-delay 0.5
"""


def handle(factory, until=None):
    """Run the installed handler while the machine is off, as if fioconfig had; give its exit status.

    `until`: a condition upon which it is killed; it stops for a moment at each file that it replaces.
    """
    request = shutil.move(factory.device.write_request(ID), "/var/request")
    own = {name: value for name, value in os.environ.items() if name in {"SOFTHSM2_CONF", "SOTA_DIR"}}
    environment = {
        "PATH": os.environ["PATH"],
        "CONFIG_FILE": request,
        "STORAGE_DIR": str(factory.device.storage),
        **own,
    }
    if until is None:
        return subprocess.run([HANDLER], env=environment, check=False, timeout=90).returncode
    calls = "rename,renameat,renameat2"
    slowly = [
        "strace",
        "-f",
        "-qq",
        "-o",
        "/dev/null",
        "-e",
        f"trace={calls}",
        "-e",
        f"inject={calls}:delay_exit=300000",
    ]
    with subprocess.Popen([*slowly, HANDLER], env=environment, start_new_session=True) as program:
        while not until():
            assert program.poll() is None, "it has ended before"
        os.killpg(program.pid, signal.SIGKILL)
    return program.returncode


def lines(name):
    log = LOGS / name
    return log.read_text().splitlines() if log.exists() else []


def finished(machine, factory):
    """Tell whether nothing is pending and the daemon has ended."""
    return not marker(factory.device.storage).exists() and machine.show(DAEMON, "ActiveState") == "inactive"


def expect_whole(machine, factory):
    assert broken_invariants(factory, ID, completed=True) == [], machine.journal(DAEMON)
    assert read_pending(factory.device.storage) is None
    assert machine.show(PATH, "ActiveState") == "active"
    assert machine.show(DAEMON, "Result") == "success"


def test_a_device_with_nothing_pending_starts_nothing_but_the_path_unit(files, machine):
    with machine.running():
        assert machine.show(PATH, "ActiveState") == "active"
        for unit in (DAEMON, OFFLINE):
            assert machine.show(unit, "ActiveState") == "inactive"
            assert machine.show(unit, "ExecMainStartTimestampMonotonic") == "0"
        assert machine.show("renew-client-cert-if-due.timer", "UnitFileState") == "disabled"
        assert machine.state() == "running"
    assert files.gateway.requests == files.est.requests == []


def test_a_rotation_that_fioconfig_began_and_that_was_killed_is_finished_by_the_daemon(factory, machine):
    fault = factory.gateway.faults.add("PATCH", "/config", hang=60.0)
    with machine.running():
        factory.device.write_request(ID)
        machine.systemctl("restart", "fioconfig.service")
        machine.until(lambda: fault.used)
        machine.systemctl("kill", "--signal=KILL", "fioconfig.service")
        machine.until(lambda: finished(machine, factory))
        expect_whole(machine, factory)
        machine.until(lambda: machine.show("fioconfig.service", "ActiveState") == "active")
        assert lines("aktualizr-lite") == ["start", "start"]
        assert machine.state() == "running"


def test_a_hook_runs_in_the_daemons_sandbox_and_has_systemd_do_the_rest(files, machine):
    folder = Path("/etc/renew-client-cert/hooks.d")
    folder.mkdir(parents=True)
    hook = folder / "50-vpn"
    hook.write_text(
        f"""#!/bin/sh
        echo "$RESULT $NEW_KEY $(systemctl is-active {PATH})" >> "$STORAGE_DIR/told"
        systemctl try-restart aktualizr-lite.service && echo restarted >> "$STORAGE_DIR/told"
        touch /usr/outside || echo "outside $?" >> "$STORAGE_DIR/told"
        """
    )
    hook.chmod(0o755)
    assert handle(files, until=lambda: read_pending(files.device.storage) is not None) < 0
    with machine.running():
        machine.until(lambda: finished(machine, files))
        shutil.rmtree(folder.parent)
        expect_whole(machine, files)
    key = files.device.current_identity().key
    assert (files.device.storage / "told").read_text() == f"success {key} active\nrestarted\noutside 1\n"


def test_a_device_that_lost_power_in_the_middle_of_the_switch_is_whole_before_anything_uses_its_key(factory, machine):
    before = factory.device.sota_toml.read_bytes()
    handle(factory, until=lambda: factory.device.sota_toml.read_bytes() != before)
    broken = broken_invariants(factory, ID, completed=True)
    assert any("config.encrypted" in each for each in broken), broken
    with machine.running():
        machine.until(lambda: finished(machine, factory))
        assert machine.show(OFFLINE, "Result") == "success"
        assert "repaired: the configuration fits" in machine.journal(OFFLINE)
        expect_whole(machine, factory)
        whole = Path("/var/sota/config.encrypted").read_bytes()
    for first in ("extract", "daemon"):  # what fioconfig saw when it was called
        seen = LOGS / f"at-{first}"
        assert (seen / "config.encrypted").read_bytes() == whole
        assert (seen / "sota.toml").read_bytes() == factory.device.sota_toml.read_bytes()


def test_a_token_that_appears_late_is_noticed_and_the_rotation_finished(token, machine, tmp_path):
    away = token.device.token.directory.rename(tmp_path / "away")
    assert handle(token) == 75
    with machine.running():
        machine.until(lambda: "waiting for token" in machine.show(DAEMON, "StatusText"))
        assert machine.show(DAEMON, "ActiveState") == "active"
        away.rename(token.device.token.directory)
        announce("tee", "/devices/platform/firmware:optee/tee/tee0")
        machine.until(lambda: finished(machine, token))
        expect_whole(machine, token)
        assert "a device appeared" in machine.journal(DAEMON)


def test_a_token_that_was_away_for_long_is_looked_for_at_once_when_its_device_restarts_the_daemon(
    token, machine, tmp_path
):
    away = token.device.token.directory.rename(tmp_path / "away")
    assert handle(token) == 75
    content = journals.read(token.device.storage)
    content["waiting"]["attempts"] = 8
    journals.write(token.device.storage, content)
    with machine.running():
        machine.until(lambda: "waiting for token" in machine.show(DAEMON, "StatusText"))
        first = machine.show(DAEMON, "MainPID")
        away.rename(token.device.token.directory)
        # As 80-renew-client-cert.rules does; the event itself then comes too late, or too early.
        machine.systemctl("--no-block", "try-restart", DAEMON)
        machine.until(lambda: machine.show(DAEMON, "MainPID") != first)
        announce("tee", "/devices/platform/firmware:optee/tee/tee0")
        machine.until(lambda: finished(machine, token))
        expect_whole(machine, token)


def test_an_est_server_that_is_down_for_three_back_offs_is_asked_until_it_answers(files, machine):
    folder = UNITS / f"{DAEMON}.d"
    folder.mkdir()
    (folder / "quick.conf").write_text(QUICK)
    files.est.faults.add(*ENROL, times=4, status=503, headers={"Retry-After": "200"})
    assert handle(files) == 75
    with machine.running():
        for attempts in (1, 2, 3, 4):
            machine.until(lambda attempts=attempts: read_pending(files.device.storage).waiting.attempts == attempts)
            machine.until(lambda: "EST server asks to come back at" in machine.show(DAEMON, "StatusText"))
            # What the server asked for is forgotten; the back-off stays.
            content = journals.read(files.device.storage)
            content["waiting"]["until"] = None
            journals.write(files.device.storage, content)
        machine.until(lambda: finished(machine, files))
        expect_whole(machine, files)
    assert len({each.body for each in files.est.requests if each.method == "POST"}) == 1


def test_a_daemon_that_is_killed_starts_again_and_one_that_is_stopped_leaves_the_rotation_pending(files, machine):
    folder = UNITS / f"{DAEMON}.d"
    folder.mkdir()
    (folder / "quick.conf").write_text("[Service]\nRestartSec=0\n")
    files.est.faults.add(*ENROL, status=503, headers={"Retry-After": "3000"})
    assert handle(files) == 75
    with machine.running():
        machine.until(lambda: "EST server asks to come back at" in machine.show(DAEMON, "StatusText"))
        first = machine.show(DAEMON, "MainPID")
        machine.systemctl("kill", "--signal=KILL", DAEMON)
        machine.until(lambda: machine.show(DAEMON, "MainPID") not in {first, "0"})
        machine.until(lambda: "EST server asks to come back at" in machine.show(DAEMON, "StatusText"))
        machine.systemctl("stop", PATH, DAEMON)
        assert machine.show(DAEMON, "Result") == "success"
        assert read_pending(files.device.storage).rotation_id == ID


def test_a_refused_rotation_is_left_alone_at_boot(files, machine):
    files.gateway.faults.add("PATCH", "/config", times=None, status=400)
    assert handle(files) == 78
    asked = len(files.gateway.requests)
    with machine.running():
        assert finished(machine, files)
        assert machine.state() == "running"
        assert [each for each in files.gateway.requests[asked:] if each.path != "/events"] == []


def test_the_daily_look_rotates_a_certificate_that_is_due(factory, machine):
    unit = UNITS / "renew-client-cert-if-due.service.d"
    unit.mkdir()
    (unit / "share.conf").write_text(
        "[Service]\nExecStart=\n"
        "ExecStart=/usr/sbin/renew-client-cert rotate --if-due 0.999999 $RENEW_CLIENT_CERT_OPTIONS\n"
    )
    options = f"--rotation-id {ID} --est-server {factory.device.est_url} --pkey-ids 01,07 --cert-ids 03,09"
    with DEFAULTS.open("a") as defaults:
        defaults.write(f'RENEW_CLIENT_CERT_OPTIONS="{options}"\n')
    with machine.running():
        machine.systemctl("start", "renew-client-cert-if-due.service")
        machine.until(lambda: finished(machine, factory))
        expect_whole(machine, factory)
        machine.until(lambda: machine.show("fioconfig.service", "ActiveState") == "active")


def test_fioconfig_stays_stopped_during_a_rotation_by_hand_where_a_path_unit_would_start_it_again(files, machine):
    # As meta-lmp has it.
    path = UNITS / "fioconfig.path"
    path.write_text("[Path]\nPathExists=/var/sota/sota.toml\n[Install]\nWantedBy=multi-user.target\n")
    subprocess.run(["systemctl", "--root=/", "enable", path.name], check=True, capture_output=True)
    try:
        go_on = threading.Event()
        fault = files.gateway.faults.add("PATCH", "/config", hang=go_on)
        with machine.running():
            files.device.write_request(ID)
            with subprocess.Popen(machine.command("renew-client-cert", "rotate")) as program:
                machine.until(lambda: fault.used)
                during = {unit: machine.show(unit, "ActiveState") for unit in ("fioconfig.service", path.name)}
                go_on.set()
            assert program.returncode == 0
            assert during == {"fioconfig.service": "inactive", path.name: "inactive"}
            machine.until(lambda: finished(machine, files))
            expect_whole(machine, files)
            for unit in during:
                assert machine.show(unit, "ActiveState") == "active"
    finally:
        subprocess.run(["systemctl", "--root=/", "disable", path.name], check=True, capture_output=True)
        path.unlink()


def test_another_storage_folder_needs_only_the_drop_ins_that_the_documentation_shows(files, machine, monkeypatch):
    folder = Path("/data/var/sota")
    folder.parent.mkdir(parents=True)
    shutil.move("/var/sota", folder)
    Path("/data/run").symlink_to("/run")
    files.device.folder = Path("/data")
    files.device.sota_toml.write_text(files.device.sota_toml.read_text().replace("/var/sota", str(folder)))
    sota = f"/usr/lib/sota/conf.d,{folder}/sota.toml,/etc/sota/conf.d/"
    monkeypatch.setenv("SOTA_DIR", sota)
    DEFAULTS.write_text(f"SOTA_DIR={sota}\n")
    text = (REPOSITORY / "docs/installation.md").read_text().replace("/data/sota", str(folder))
    drop_ins = re.findall(r"^    # (/etc/systemd/system/\S+/storage\.conf)\n((?:    \S.*\n)+)", text, re.MULTILINE)
    assert len(drop_ins) == 4
    for path, lines_of_it in drop_ins:
        Path(path).parent.mkdir()
        Path(path).write_text(textwrap.dedent(lines_of_it))
    try:
        before = files.device.sota_toml.read_bytes()
        handle(files, until=lambda: files.device.sota_toml.read_bytes() != before)
        with machine.running():
            machine.until(lambda: finished(machine, files))
            assert "repaired: the configuration fits" in machine.journal(OFFLINE)
            expect_whole(machine, files)
    finally:
        for path, _ in drop_ins:
            shutil.rmtree(Path(path).parent)
        shutil.rmtree("/data")


# The package


def test_the_daemon_runs_in_its_sandbox(files, machine):
    files.est.faults.add(*ENROL, status=503, headers={"Retry-After": "3000"})
    assert handle(files) == 75
    with machine.running():
        machine.until(lambda: "EST server asks to come back at" in machine.show(DAEMON, "StatusText"))
        pid = machine.show(DAEMON, "MainPID")
        status = dict(line.split(":\t", 1) for line in machine.run("cat", f"/proc/{pid}/status").splitlines())
        # CAP_DAC_OVERRIDE, CAP_FOWNER; a filter of system calls.
        assert int(status["CapBnd"], 16) == int(status["CapEff"], 16) == 0b1010
        assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
        assert int(status["VmRSS"].split()[0]) < 20 * 1024
        mounts = {
            line.split()[4]: line.split()[5].split(",")[0]
            for line in machine.run("cat", f"/proc/{pid}/mountinfo").splitlines()
        }
        # Another device than those of tokens.
        group = f"/sys/fs/cgroup/system.slice/{DAEMON}/cgroup.procs"
        machine.run("mknod", "/dev/other", "c", "10", "183")
        said = machine.run("sh", "-c", f"echo $$ > {group}; exec head -c 1 /dev/other 2>&1", check=False)
        assert "Operation not permitted" in said
        assert (mounts["/"], mounts["/var/sota"], mounts["/etc/sota"]) == ("ro", "rw", "rw")


def test_systemd_finds_nothing_wrong_with_the_installed_units_and_their_manual(files, machine):
    with machine.running():
        assert machine.run("sh", "-c", "systemd-analyze verify /lib/systemd/system/renew-client-cert* 2>&1") == ""


def test_the_package_gives_way_to_the_stock_handler_when_it_is_removed(files, machine):
    stock = Path(HANDLER)
    machine_wide = ("dpkg", "--force-depends")
    subprocess.run([*machine_wide, "--purge", "renew-client-cert"], check=True, capture_output=True)
    left = [path for top in ("/usr", "/etc", "/lib/systemd") for path in Path(top).rglob("*renew*client*cert*")]
    assert [path for path in left if path != DEFAULTS] == []
    stock.parent.mkdir(parents=True)
    stock.write_text("#!/bin/sh\nexit 7\n")
    stock.chmod(0o755)
    with machine.running():
        machine.run(*machine_wide, "--install", PACKAGE)
        assert machine.show(PATH, "ActiveState") == "active"
        assert machine.show(OFFLINE, "UnitFileState") == machine.show(PATH, "UnitFileState") == "enabled"
        files.device.write_request(ID)
        assert machine.run(HANDLER, "--version").startswith("renew-client-cert ")
        assert Path(f"{HANDLER}.fioconfig").read_text() == "#!/bin/sh\nexit 7\n"
        machine.run(*machine_wide, "--install", PACKAGE)  # the same again, as an upgrade
        assert Path(f"{HANDLER}.fioconfig").read_text() == "#!/bin/sh\nexit 7\n"
        machine.run(*machine_wide, "--remove", "renew-client-cert")
        assert machine.show(PATH, "LoadState") == "not-found"
        assert machine.state() == "running"
    assert stock.read_text() == "#!/bin/sh\nexit 7\n"
    assert not Path(f"{HANDLER}.fioconfig").exists()
    stock.unlink()
    subprocess.run([*machine_wide, "--install", PACKAGE], check=True, capture_output=True)


def test_lintian_finds_no_error_in_the_package():
    said = subprocess.run(
        ["lintian", "--allow-root", "--fail-on", "error", "--tag-display-limit", "0", PACKAGE],
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 0, said.stdout + said.stderr
