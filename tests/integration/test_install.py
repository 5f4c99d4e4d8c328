"""`make install` below DESTDIR, as an image is built: what is there, that it works, and `make uninstall`."""

import fcntl
import gzip
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from handler.arguments import make_parser
from handler.exit_status import DONE, SWITCHED
from tests.invariants import broken_invariants
from tests.simulators.device import REPOSITORY

ID = "certs-installed"
LIBRARY = "usr/lib/renew-client-cert"
HANDLER = "usr/share/fioconfig/handlers/renew-client-cert"
PROGRAM = "usr/sbin/renew-client-cert"
STOCK = "#!/bin/sh\nexit 7\n"
# The tree below the first argument, laid over this machine's /usr, for the command that follows.
AS_INSTALLED = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-ec")
OVERLAY = 'mount -t overlay -o "lowerdir=$0/usr:/usr" overlay /usr; exec "$@"'


def packaged(script, folder):
    """Run a script as `make` does."""
    environment = {**os.environ, "DESTDIR": str(folder), "PREFIX": "/usr", "BUILD_PYTHON": sys.executable}
    command = [REPOSITORY / "packaging" / script]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=110)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="session")
def image(tmp_path_factory):
    """Install, over fioconfig's own handler, into the tree of an image: once for all processes of this run."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    folder = shared / "image"
    with (shared / "image.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            unfinished = shared / "unfinished"
            handler = unfinished / HANDLER
            handler.parent.mkdir(parents=True)
            handler.write_text(STOCK)
            packaged("install.sh", unfinished)
            unfinished.rename(folder)
    return folder


def run(image, program, *arguments, environment=None):
    """Run an installed program as on the device."""
    command = [*AS_INSTALLED, OVERLAY, str(image), f"/{program}", *arguments]
    return subprocess.run(
        command, cwd="/", env=environment or {}, capture_output=True, text=True, check=False, timeout=60
    )


def test_fioconfig_runs_the_installed_handler_for_a_whole_rotation(image, factory):
    factory.device.write_request(ID)
    done = run(image, HANDLER, environment=factory.device.environment())
    assert done.returncode == SWITCHED, done.stderr
    assert run(image, PROGRAM, "resume", environment=factory.device.environment()).returncode == DONE
    assert broken_invariants(factory, ID, completed=True) == []


def test_the_installed_daemon_finds_the_installed_program_for_its_child(image, files):
    files.device.write_request(ID)
    assert run(image, HANDLER, environment=files.device.environment()).returncode == SWITCHED
    done = run(image, PROGRAM, "daemon", environment=files.device.environment())
    assert done.returncode == DONE, done.stderr
    assert "the child ended with status 0" in done.stderr
    assert broken_invariants(files, ID, completed=True) == []


def test_nothing_of_it_is_where_other_python_programs_would_find_it(image):
    packages = {path.parent for name in ("handler", "hsm") for path in image.rglob(f"{name}/__init__.py")}
    assert packages == {image / LIBRARY / "handler", image / LIBRARY / "hsm"}
    assert list(image.rglob("*-packages")) == []


def test_no_file_names_the_folder_in_which_the_image_was_made(image):
    # A path that pip notes in its records would do; one in a program, a unit or a compiled module would not.
    named = [path for path in image.rglob("*") if path.is_file() and str(image.parent).encode() in path.read_bytes()]
    assert named == []


def test_a_device_does_not_compile_at_every_start_however_its_image_sets_the_time_of_files(image):
    # PEP 552: bit 0, checked by hash; bit 1, whether it is checked at all.
    flags = {path.read_bytes()[4:8] for path in (image / LIBRARY).rglob("*.pyc")}
    assert flags == {b"\1\0\0\0"}


def test_the_stock_handler_is_kept_and_comes_back(image, tmp_path):
    assert (image / f"{HANDLER}.fioconfig").read_text() == STOCK
    tree = shutil.copytree(image, tmp_path / "image", symlinks=True)
    packaged("uninstall.sh", tree)
    left = [path for path in tree.rglob("*") if not path.is_dir()]
    assert left == [tree / HANDLER]
    assert left[0].read_text() == STOCK


def test_the_manual_names_every_command_and_option(image, tmp_path):
    page = tmp_path / "page"
    page.write_bytes(gzip.decompress((image / "usr/share/man/man8/renew-client-cert.8.gz").read_bytes()))
    shown = subprocess.run(["man", "--warnings", page], capture_output=True, text=True, check=True, env={"LC_ALL": "C"})
    assert shown.stderr == ""
    options, commands = _words(make_parser())
    assert [word for word in options | commands if word not in shown.stdout] == []


def test_the_shell_completes_commands_and_options(image):
    completion = image / "usr/share/bash-completion/completions/renew-client-cert"
    script = (
        f". {completion}; COMP_WORDS=(renew-client-cert $1); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); "
        '$(complete -p renew-client-cert | sed "s/.*-F \\([^ ]*\\).*/\\1/"); echo "${COMPREPLY[@]}"'
    )

    def completed(line):
        command = ["bash", "--noprofile", "--norc", "-c", script, "bash", line]
        return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())

    assert completed("res") == {"resume"}
    assert {"--offline", "--unattended"} <= completed("resume --")


def _words(parser):
    """Give the options and the commands of a parser and of its commands."""
    options, commands = set(), set()
    for action in parser._actions:
        options |= {each for each in action.option_strings if each not in {"-h", "--help"}}
        for name, command in (action.choices or {}).items() if action.nargs == "A..." else ():
            inner = _words(command)
            options, commands = options | inner[0], commands | inner[1] | {name}
    return options, commands


def test_an_image_needs_no_tool_but_python_at_run_time(image):
    first = (image / PROGRAM).read_text().splitlines()[0]
    assert first == "#!/usr/bin/python3 -I"
    assert Path(image / PROGRAM).stat().st_mode & 0o777 == 0o755
