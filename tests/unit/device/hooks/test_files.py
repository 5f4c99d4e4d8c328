"""Which executables of hooks.d run, in which order, and why others do not."""

import os

import pytest

from handler.device.hooks.files import NOT_EXECUTABLE, hooks_in


@pytest.fixture
def folders(tmp_path):
    """Give /etc's folder and /usr/lib's."""
    made = (tmp_path / "etc", tmp_path / "usr")
    for folder in made:
        folder.mkdir(mode=0o755)
    return made


def add(folder, name, mode=0o755, content="#!/bin/sh\n"):
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
    assert listed([tmp_path / "missing", add(tmp_path, "file")]) == []


def test_they_run_by_file_name_over_both_folders(folders):
    etc, usr = folders
    paths = [add(usr, "10-a"), add(etc, "20-b"), add(usr, "30-c"), add(etc, "40-d")]
    assert listed(folders) == [(path, None) for path in paths]


def test_the_administrators_one_overrides_the_vendors_of_that_name(folders):
    etc, usr = folders
    add(usr, "10-vpn")
    assert listed(folders) == [(usr / "10-vpn", None)]
    mine = add(etc, "10-vpn")
    assert listed(folders) == [(mine, None)]
    mine.chmod(0o644)
    assert listed(folders) == [(mine, NOT_EXECUTABLE)]


@pytest.mark.parametrize("how", ["empty", "null"])
def test_the_administrator_hides_the_vendors_one(folders, how):
    etc, usr = folders
    add(usr, "10-vpn")
    if how == "empty":
        add(etc, "10-vpn", content="")
    else:
        (etc / "10-vpn").symlink_to("/dev/null")
    assert listed(folders) == []


@pytest.mark.parametrize("name", [".10-vpn.swp", "10-vpn~", "10-vpn.dpkg-old", "10-vpn.rpmsave", ".hidden"])
def test_what_editors_and_packages_leave_is_none(folders, name):
    add(folders[0], name)
    assert listed(folders) == []


def test_what_is_no_file_does_not_run(folders):
    (folders[0] / "folder").mkdir()
    os.mkfifo(folders[1] / "pipe", 0o755)
    (folders[1] / "gone").symlink_to("/nowhere")
    said = [said for _, said in listed(folders)]
    assert said == ["is not a regular file", "cannot be read: No such file or directory", "is not a regular file"]


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o777])
def test_one_that_others_can_write_does_not_run(folders, mode):
    path = add(folders[0], "10-vpn", mode)
    assert problem(folders) == f"{path} can be written by users other than root (mode {mode:04o})"


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o1777])
def test_nothing_runs_from_a_folder_that_others_can_write_and_nothing_there_overrides(folders, mode):
    etc, usr = folders
    mine, theirs = add(usr, "10-vpn"), add(etc, "10-vpn")
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
    add(folder, "10-vpn")
    assert problem([folder]) == f"{above} can be written by users other than root (mode {mode:04o})"


def test_one_of_another_user_does_not_run(folders):
    path = add(folders[0], "10-vpn")
    os.chown(path, 1234, 0)
    assert problem(folders) == f"{path} belongs to user 1234, not to root"


def test_nothing_runs_from_a_folder_of_another_user(folders):
    add(folders[0], "10-vpn")
    os.chown(folders[0], 1234, 0)
    assert problem(folders) == f"{folders[0]} belongs to user 1234, not to root"


def test_a_link_to_what_only_root_can_change_runs(folders, tmp_path):
    target = add(tmp_path, "vpn")
    (tmp_path / "chain").symlink_to("vpn")
    (folders[0] / "10-vpn").symlink_to("../chain")
    (folders[0] / "20-vpn").symlink_to(target)
    assert listed(folders) == [(folders[0] / "10-vpn", None), (folders[0] / "20-vpn", None)]


@pytest.mark.parametrize("what", ["target", "folder", "owner", "link in between", "above by .."])
def test_a_link_that_leads_where_others_can_change_something_does_not_run(folders, tmp_path, what):
    target_folder, between = tmp_path / "target", tmp_path / "between"
    target_folder.mkdir(mode=0o755)
    between.mkdir(mode=0o755)
    target = add(target_folder, "vpn")
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
