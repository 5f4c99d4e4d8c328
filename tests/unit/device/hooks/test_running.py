"""Real executables, run as hooks: their environment, their time, what they leave and what is said of them."""

import logging
import os
import select
import signal
import time

import pytest

from handler.device.hooks.running import run_hooks


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "hooks.d"
    made.mkdir(mode=0o755)
    return made


@pytest.fixture
def add(folder):
    """Give what adds a shell script as a hook."""

    def add(name, script, first="#!/bin/sh"):
        path = folder / name
        path.write_text(f"{first}\n{script}\n")
        path.chmod(0o755)
        return path

    return add


def run(folder, environment=None, **limits):
    return run_hooks([folder], environment or {}, **limits)


def has_ended(pid, within=0.0):
    """Tell whether a process is gone, or goes within so many seconds."""
    try:
        descriptor = os.pidfd_open(int(pid))
    except ProcessLookupError:
        return True
    with os.fdopen(descriptor) as process:
        return bool(select.select([process], [], [], within)[0])


def test_they_run_in_order_one_after_the_other(folder, add, tmp_path):
    for name in ("20-b", "10-a", "30-c"):
        add(name, f"echo {name} >> {tmp_path}/ran")
    assert run(folder) == ""
    assert (tmp_path / "ran").read_text().split() == ["10-a", "20-b", "30-c"]


def test_the_environment_holds_what_is_given_and_a_path_and_nothing_else(folder, add, tmp_path, monkeypatch):
    monkeypatch.setenv("SOFTHSM2_CONF", "/secret")
    monkeypatch.setenv("PATH", f"/evil:{os.environ['PATH']}")
    add("10-a", f"/usr/bin/env > {tmp_path}/seen", first="#!/bin/sh -e")
    assert run(folder, {"RESULT": "success"}) == ""
    seen = set((tmp_path / "seen").read_text().split()) - {"PWD=/", "SHLVL=0", "_=/usr/bin/env"}
    assert seen == {"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "RESULT=success"}


def test_it_can_read_nothing_has_no_terminal_and_holds_nothing_open(folder, add, tmp_path):
    descriptor = os.open(tmp_path, os.O_RDONLY)
    os.set_inheritable(descriptor, True)
    add("10-a", f'cat; test -z "$(cat)"; ls /proc/$$/fd > {tmp_path}/open; ps -o tty= -p $$ > {tmp_path}/tty')
    assert run(folder) == ""
    os.close(descriptor)
    assert str(descriptor) not in (tmp_path / "open").read_text().split()
    assert (tmp_path / "tty").read_text().split() == ["?"]


def test_one_that_fails_is_told_and_stops_no_other(folder, add, tmp_path, caplog):
    first = add("10-a", "echo no VPN here >&2; exit 3")
    add("20-b", f"touch {tmp_path}/ran")
    assert run(folder) == f"hook {first} ended with status 3: no VPN here"
    assert (tmp_path / "ran").exists()
    assert [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING] == [
        f"hook {first} ended with status 3: no VPN here"
    ]


def test_one_that_a_signal_ends_is_told(folder, add):
    assert run(folder) == "" != (path := add("10-a", "kill -SEGV $$"))
    assert run(folder) == f"hook {path} was ended by signal 11"


def test_its_output_is_made_harmless_and_only_the_end_of_it_is_kept(folder, add):
    path = add("10-a", r"""head -c 1000000 /dev/zero | tr '\0' x; printf '\033[31mred\n\nend\377'; exit 1""")
    said = run(folder)
    assert said.startswith(f"hook {path} ended with status 1: xxx")
    assert said.endswith(r"xx\x1b[31mred end" + "\N{REPLACEMENT CHARACTER}")
    assert len(said) < 350 + len(str(path))


def test_output_without_end_ends_with_its_time(folder, add):
    path = add("10-a", "yes")
    assert run(folder, one=0.3).startswith(f"hook {path} was killed after 0.3 s: y y y")


def test_its_whole_process_group_is_killed_when_its_time_is_up(folder, add, tmp_path):
    path = add("10-a", f"trap '' TERM INT; sleep 1000 & echo $! > {tmp_path}/pid; wait")
    assert run(folder, one=0.5) == f"hook {path} was killed after 0.5 s"
    assert has_ended((tmp_path / "pid").read_text(), within=10.0)


def test_what_it_leaves_behind_is_not_waited_for_but_killed(folder, add, tmp_path):
    add("10-a", f"sleep 1000 & echo $! > {tmp_path}/pid")
    began = time.monotonic()
    assert run(folder, one=30.0) == ""
    assert time.monotonic() - began < 10.0
    assert has_ended((tmp_path / "pid").read_text(), within=10.0)


def test_a_daemon_that_holds_its_output_open_is_not_waited_for(folder, add, tmp_path):
    os.mkfifo(tmp_path / "pid")
    add(
        "10-a",
        f"setsid sh -c 'echo $$ > {tmp_path}/pid; exec sleep 1000' & read pid < {tmp_path}/pid; echo $pid; exit 1",
    )
    began = time.monotonic()
    pid = int(run(folder, one=30.0).split()[-1])
    assert time.monotonic() - began < 10.0
    assert not has_ended(pid)
    os.kill(pid, signal.SIGKILL)


def test_one_that_closes_its_output_is_waited_for(folder, add, tmp_path):
    path = add("10-a", f"exec >&- 2>&-; touch {tmp_path}/ran; exit 4")
    assert run(folder) == f"hook {path} ended with status 4"
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("first", ["#!/nowhere/sh", "no magic at all"])
def test_one_that_cannot_be_started_is_told(folder, add, first):
    path = add("10-a", "", first=first)
    assert run(folder).startswith(f"hook {path} could not be started: ")


def test_a_name_that_no_environment_can_hold_stops_nothing(folder, add):
    path = add("10-a", "")
    assert run(folder, {"OLD_KEY": "a\0b"}) == f"hook {path} could not be started: embedded null byte"


def test_all_together_have_a_time(folder, add):
    first, second = add("10-a", "sleep 1000"), add("20-b", "")
    said = run(folder, one=0.2, total=0.2).split("; ")
    assert said[0] == f"hook {first} was killed after 0.2 s"
    assert said[1] == f"hook {second} was not run: the hooks before it took 0.2 s"


def test_what_is_not_safe_is_not_run_and_told(folder, add, tmp_path):
    path = add("10-a", f"touch {tmp_path}/ran")
    path.chmod(0o777)
    said = run(folder)
    assert said == f"hook {path} was not run: {path} can be written by users other than root (mode 0777)"
    assert not (tmp_path / "ran").exists()


def test_what_is_not_executable_is_no_failure(folder, add, tmp_path):
    add("README", f"touch {tmp_path}/ran").chmod(0o644)
    assert run(folder) == ""
    assert not (tmp_path / "ran").exists()
