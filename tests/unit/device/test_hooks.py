"""Which executables of hooks.d run, in which order, and why others do not; and real ones, run as hooks."""

import logging
import os
import select
import signal
import time

import pytest

from handler.device.hooks import NOT_EXECUTABLE, hooks_in, run_hooks


@pytest.fixture
def folders(tmp_path):
    """Give /etc's folder and /usr/lib's."""
    made = (tmp_path / "etc", tmp_path / "usr")
    for folder in made:
        folder.mkdir(mode=0o755)
    return made


def put(folder, name, mode=0o755, content="#!/bin/sh\n"):
    path = folder / name
    path.write_text(content)
    path.chmod(mode)
    return path


def listed(folders):
    return [(hook.path, hook.problem) for hook in hooks_in(folders)]


def problem(folders):
    ((_, said),) = listed(folders)
    return said


def test_without_folders_there_are_none(tmp_path):
    assert listed([tmp_path / "missing", put(tmp_path, "file")]) == []


def test_they_run_by_file_name_over_both_folders(folders):
    etc, usr = folders
    paths = [put(usr, "10-a"), put(etc, "20-b"), put(usr, "30-c"), put(etc, "40-d")]
    assert listed(folders) == [(path, None) for path in paths]


def test_the_administrators_one_overrides_the_vendors_of_that_name(folders):
    etc, usr = folders
    put(usr, "10-vpn")
    assert listed(folders) == [(usr / "10-vpn", None)]
    mine = put(etc, "10-vpn")
    assert listed(folders) == [(mine, None)]
    mine.chmod(0o644)
    assert listed(folders) == [(mine, NOT_EXECUTABLE)]


@pytest.mark.parametrize("how", ["empty", "null"])
def test_the_administrator_hides_the_vendors_one(folders, how):
    etc, usr = folders
    put(usr, "10-vpn")
    if how == "empty":
        put(etc, "10-vpn", content="")
    else:
        (etc / "10-vpn").symlink_to("/dev/null")
    assert listed(folders) == []


@pytest.mark.parametrize("name", [".10-vpn.swp", "10-vpn~", "10-vpn.dpkg-old", "10-vpn.rpmsave", ".hidden"])
def test_what_editors_and_packages_leave_is_none(folders, name):
    put(folders[0], name)
    assert listed(folders) == []


def test_what_is_no_file_does_not_run(folders):
    (folders[0] / "folder").mkdir()
    os.mkfifo(folders[1] / "pipe", 0o755)
    (folders[1] / "gone").symlink_to("/nowhere")
    said = [said for _, said in listed(folders)]
    assert said == ["is not a regular file", "cannot be read: No such file or directory", "is not a regular file"]


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o777])
def test_one_that_others_can_write_does_not_run(folders, mode):
    path = put(folders[0], "10-vpn", mode)
    assert problem(folders) == f"{path} can be written by users other than root (mode {mode:04o})"


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o1777])
def test_nothing_runs_from_a_folder_that_others_can_write_and_nothing_there_overrides(folders, mode):
    etc, usr = folders
    mine, theirs = put(usr, "10-vpn"), put(etc, "10-vpn")
    etc.chmod(mode)
    said = f"{etc} can be written by users other than root (mode {mode:04o})"
    assert sorted(listed(folders)) == sorted([(mine, None), (theirs, said)])


@pytest.mark.parametrize("mode", [0o777, 0o770])
def test_nothing_runs_where_others_can_replace_a_folder_above(tmp_path, mode):
    above = tmp_path / "above"
    folder = above / "hooks.d"
    folder.mkdir(parents=True)
    above.chmod(mode)
    folder.chmod(0o755)
    put(folder, "10-vpn")
    assert problem([folder]) == f"{above} can be written by users other than root (mode {mode:04o})"


def test_one_of_another_user_does_not_run(folders):
    path = put(folders[0], "10-vpn")
    os.chown(path, 1234, 0)
    assert problem(folders) == f"{path} belongs to user 1234, not to root"


def test_nothing_runs_from_a_folder_of_another_user(folders):
    put(folders[0], "10-vpn")
    os.chown(folders[0], 1234, 0)
    assert problem(folders) == f"{folders[0]} belongs to user 1234, not to root"


def test_a_link_to_what_only_root_can_change_runs(folders, tmp_path):
    target = put(tmp_path, "vpn")
    (tmp_path / "chain").symlink_to("vpn")
    (folders[0] / "10-vpn").symlink_to("../chain")
    (folders[0] / "20-vpn").symlink_to(target)
    assert listed(folders) == [(folders[0] / "10-vpn", None), (folders[0] / "20-vpn", None)]


@pytest.mark.parametrize("what", ["target", "folder", "owner", "link in between", "above by .."])
def test_a_link_that_leads_where_others_can_change_something_does_not_run(folders, tmp_path, what):
    target_folder, between = tmp_path / "target", tmp_path / "between"
    target_folder.mkdir(mode=0o755)
    between.mkdir(mode=0o755)
    target = put(target_folder, "vpn")
    (between / "link").symlink_to(target)
    to = {"link in between": between / "link", "above by ..": target_folder / "../between/link"}.get(what, target)
    (folders[0] / "10-vpn").symlink_to(to)
    assert listed(folders) == [(folders[0] / "10-vpn", None)]
    if what == "owner":
        os.chown(target, 1234, 0)
        assert problem(folders) == f"{target} belongs to user 1234, not to root"
        return
    changed = {"target": target, "folder": target_folder}.get(what, between)
    changed.chmod(0o777)
    assert problem(folders) == f"{changed} can be written by users other than root (mode 0777)"


def test_links_in_a_circle_end(folders):
    (folders[0] / "10-vpn").symlink_to("10-vpn")
    assert problem(folders) == "cannot be read: Too many levels of symbolic links"


# How they run


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
    assert said[0].startswith(f"hook {first} was killed after 0.")
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
