"""`make install` below DESTDIR, as an image is built: what is there, that it works, and `make uninstall`."""

import fcntl
import gzip
import os
import platform
import pty
import re
import select
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from handler.console.arguments import make_parser
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
OFFLINE = ("unshare", "--user", "--map-root-user", "--net")
INSTALLATION = REPOSITORY / "docs/installation.md"
BUILD_SECONDS = 300


def packaged(command, folder, **environment):
    """Run a command as `make` does."""
    given = {name: value for name, value in os.environ.items() if name not in {"MAKEFLAGS", "MAKELEVEL", "MFLAGS"}}
    given |= {"DESTDIR": str(folder), "PREFIX": "/usr", "BUILD_PYTHON": sys.executable, **environment}
    done = subprocess.run(
        command, cwd=REPOSITORY, env=given, capture_output=True, text=True, check=False, timeout=BUILD_SECONDS
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def documented(start):
    """Give a command of docs/installation.md, for the architecture of this machine."""
    (command,) = re.findall(rf"^    ({re.escape(start)}(?:.*\\\n)*.*)$", INSTALLATION.read_text(), re.MULTILINE)
    return command.replace("aarch64", platform.machine())


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    """Give a function that makes a folder: once for all processes of this run."""
    top = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        top = top.parent

    def made(name, make):
        with (top / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (top / name).exists():
                unfinished = top / f"unfinished-{name}"
                unfinished.mkdir()
                make(unfinished)
                unfinished.rename(top / name)
        return top / name

    return made


@pytest.fixture(scope="session")
def wheels(shared):
    """Fetch wheels as the documentation says; give what makes pip look there alone."""

    def fetch(folder):
        for start in ("pip download --dest wheels --require-hashes", "pip download --dest wheels --only-binary"):
            command = documented(start).replace(" wheels", f" {folder} --quiet")
            packaged(["sh", "-c", f"{sys.executable} -m {command}"], folder)

    return {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(shared("wheels", fetch))}


@pytest.fixture(scope="session")
def image(shared, wheels):
    """Install, over fioconfig's own handler, into the tree of an image."""

    def install(folder):
        handler = folder / HANDLER
        handler.parent.mkdir(parents=True)
        handler.write_text(STOCK)
        packaged([REPOSITORY / "packaging/install.sh"], folder, **wheels)

    return shared("image", install)


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
    assert "the child exited with status 0" in done.stderr
    assert broken_invariants(files, ID, completed=True) == []


@pytest.mark.parametrize("action", ["cert-status", "cert-check", "cert-log", "cert-dry-run", "cert-abort"])
def test_the_remote_actions_are_where_fioconfig_looks_and_start_the_program(image, files, action):
    done = run(image, f"usr/share/fioconfig/actions/{action}", environment=files.device.environment())
    assert "renew-client-cert: not found" not in done.stdout + done.stderr
    assert (done.returncode == 0) == (action != "cert-dry-run"), done.stdout


def test_nothing_of_it_is_where_other_python_programs_would_find_it(image):
    packages = {path.parent for name in ("handler", "hsm") for path in image.rglob(f"{name}/__init__.py")}
    assert packages == {image / LIBRARY / "handler", image / LIBRARY / "hsm"}
    assert list(image.rglob("*-packages")) == []


SYSTEM = "usr/lib/python3/dist-packages"


def with_libraries_of_the_system(image, folder):
    """Copy the image, with the libraries moved to where its Python looks for modules, and a .pth file there."""
    tree = shutil.copytree(image, folder, symlinks=True)
    (tree / SYSTEM).mkdir(parents=True)
    for path in (tree / LIBRARY).iterdir():
        if path.name not in {"handler", "hsm"}:
            path.rename(tree / SYSTEM / path.name)
    for place in (SYSTEM, LIBRARY):
        (tree / place / "other.pth").write_text("import sys; sys.stderr.write('processed')\n")
    return tree


def test_the_program_looks_for_modules_in_its_own_folder_only_and_processes_no_pth_file(image, tmp_path):
    tree = with_libraries_of_the_system(image, tmp_path / "image")
    assert run(tree, PROGRAM, "--version").stderr == ""
    assert "No module named" in run(tree, PROGRAM, "status").stderr


def test_an_image_that_has_the_libraries_itself_names_their_folder(image, wheels, tmp_path):
    tree = with_libraries_of_the_system(image, tmp_path / "image")
    options = {"PIP_OPTIONS": "--no-deps", "SITE_PACKAGES": f"/{SYSTEM}"}
    packaged([REPOSITORY / "packaging/install.sh"], tree, **wheels, **options)
    done = run(tree, PROGRAM, "status", environment={"SOTA_DIR": "/nowhere"})
    assert "No module named" not in done.stderr
    assert "processed" not in done.stderr
    assert "expected" in done.stdout + done.stderr


def test_no_file_names_the_folder_in_which_the_image_was_made(image):
    # A path that pip notes in its records would do; one in a program, a unit or a compiled module would not.
    named = [path for path in image.rglob("*") if path.is_file() and str(image.parent).encode() in path.read_bytes()]
    assert named == []


def test_a_device_does_not_compile_at_every_start_however_its_image_sets_the_time_of_files(image):
    # PEP 552: bit 0, checked by hash; bit 1, whether it is checked at all.
    flags = {path.read_bytes()[4:8] for path in (image / LIBRARY).rglob("*.pyc")}
    assert flags == {b"\1\0\0\0"}


def test_an_image_carries_nothing_that_is_never_loaded(image):
    size = sum(path.lstat().st_blocks * 512 for path in image.rglob("*"))
    documents = sum(path.stat().st_size for path in (image / "usr/share/doc").rglob("*"))
    assert size <= 24 * 2**20
    assert documents <= 200_000
    left = [
        path for path in (image / LIBRARY).rglob("*") if path.suffix in {".h", ".pyx", ".pyi"} or path.name == "tests"
    ]
    assert left == []


def test_extension_modules_are_stripped(image):
    modules = list((image / LIBRARY).rglob("*.so"))
    assert len(modules) > 2
    for module in modules:
        sections = subprocess.run(["readelf", "-S", "-W", module], capture_output=True, text=True, check=True).stdout
        assert " .symtab " not in sections, module


def test_the_installation_says_what_it_installed_and_what_to_do_next(wheels, tmp_path):
    said = packaged([REPOSITORY / "packaging/install.sh"], tmp_path / "an image", **wheels)
    asks = "import sys; print(*sys.version_info[:2], sep='.')"
    version = subprocess.run(["/usr/bin/python3", "-c", asks], capture_output=True, text=True, check=True).stdout
    assert f"installed below {tmp_path}/an image\n" in said
    assert f"byte code          for Python {version}" in said
    assert "extension modules  stripped with strip\n" in said
    assert f'systemctl --root="{tmp_path}/an image" preset' in said
    assert said.endswith("then, on the device: renew-client-cert check\n")


def test_modules_of_an_architecture_that_no_tool_here_strips_are_left_as_they_are(wheels, tmp_path):
    (tmp_path / "bin").mkdir()
    tool = tmp_path / "bin/llvm-strip"
    tool.write_text("#!/bin/sh\nexit 1\n")
    tool.chmod(0o755)
    path = f"{tmp_path}/bin:{os.environ['PATH']}"
    install = [REPOSITORY / "packaging/install.sh"]
    said = packaged(install, tmp_path / "image", TARGET_STRIP="no-such-strip", PATH=path, **wheels)
    assert "extension modules  not stripped: neither no-such-strip nor llvm-strip can; set TARGET_STRIP" in said
    assert run(tmp_path / "image", PROGRAM, "--version").stdout.startswith("renew-client-cert ")


def test_byte_code_is_for_the_python_of_the_device_or_there_is_none(tmp_path):
    device = {"TARGET_PYTHON": "/opt/device/bin/python3", "PIP_OPTIONS": "--no-deps"}
    install = [REPOSITORY / "packaging/install.sh"]
    said = packaged(install, tmp_path / "image", TARGET_PYTHON_VERSION="3.90", **device)
    assert "byte code          none: no Python 3.90 here to make it" in said
    assert list((tmp_path / "image").rglob("*.pyc")) == []
    assert (tmp_path / "image" / PROGRAM).read_text().startswith("#!/opt/device/bin/python3 -IS\n")
    with pytest.raises(AssertionError, match="set TARGET_PYTHON_VERSION to the device's Python"):
        packaged(install, tmp_path / "image", **device)


@pytest.mark.parametrize("version", ["3", "3.9", "3.10", "3.11.7", "12"])
def test_a_python_that_the_program_does_not_run_with_is_refused_by_its_version(version, tmp_path):
    with pytest.raises(AssertionError, match=rf"device's Python is {version}: expected 3.11 or later, such as 3.12"):
        packaged([REPOSITORY / "packaging/install.sh"], tmp_path / "image", TARGET_PYTHON_VERSION=version)
    assert not (tmp_path / "image").exists()


def test_units_and_actions_start_the_program_where_it_is_installed(tmp_path):
    packaged([REPOSITORY / "packaging/install.sh"], tmp_path, PIP_OPTIONS="--no-deps", PREFIX="/usr/local")
    files = [path for path in (tmp_path / "usr/local").rglob("*") if path.parent.name in ("system", "actions")]
    assert len(files) > 9
    named = [name for path in files for name in re.findall(r"/\S*/renew-client-cert\b", path.read_text())]
    assert "/usr/local/sbin/renew-client-cert" in named
    assert [name for name in named if name.startswith("/usr/") and not name.startswith("/usr/local/")] == []


@pytest.mark.parametrize("umask", ["000", "077"])
def test_everybody_reads_and_only_root_writes_what_is_installed_whatever_the_umask(umask, tmp_path):
    install = ["sh", "-c", f"umask {umask}; exec packaging/install.sh"]
    packaged(install, tmp_path / "image", PIP_OPTIONS="--no-deps")
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "image").rglob("*")} == {0o644, 0o755}


@pytest.mark.parametrize("umask", ["000", "077"])
def test_the_package_is_the_same_whatever_the_umask(umask, tmp_path):
    copy = tmp_path / "source"
    leave_out = shutil.ignore_patterns(".*", "build", "tests", "*.egg-info", "__pycache__")
    shutil.copytree(REPOSITORY, copy, ignore=leave_out)
    build = f"umask {umask}; exec {copy}/packaging/deb.sh"
    package = copy / packaged(["sh", "-c", build], tmp_path, PIP_OPTIONS="--no-deps").strip()
    listed = subprocess.run(["dpkg-deb", "--contents", package], capture_output=True, text=True, check=True).stdout
    assert {line.split()[0][1:] for line in listed.splitlines()} == {"rwxr-xr-x", "rw-r--r--"}


@pytest.mark.timeout(BUILD_SECONDS)
def test_an_installation_and_a_removal_leave_the_hooks_of_others(tmp_path):
    hook = tmp_path / "usr/lib/renew-client-cert/hooks.d/50-vpn"
    hook.parent.mkdir(parents=True)
    hook.write_text("mine")
    packaged([REPOSITORY / "packaging/install.sh"], tmp_path, PIP_OPTIONS="--no-deps")
    assert (hook.read_text(), (tmp_path / PROGRAM).exists()) == ("mine", True)
    packaged([REPOSITORY / "packaging/uninstall.sh"], tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [hook]


@pytest.mark.timeout(BUILD_SECONDS)
def test_an_image_for_another_kind_of_device_is_built_without_a_network_as_documented(wheels, tmp_path):
    command = documented("PIP_NO_INDEX=1").replace("$PWD/wheels", wheels["PIP_FIND_LINKS"])
    command = command.replace("DESTDIR=...", f"DESTDIR={tmp_path}/image BUILDER={tmp_path}/builder")
    packaged([*OFFLINE, "sh", "-c", f"{command} PYTHON={sys.executable}"], tmp_path)
    assert run(tmp_path / "image", PROGRAM, "--version").stdout.startswith("renew-client-cert ")
    builder = {path.name.split("-")[0] for path in (tmp_path / "builder").glob("lib/*/site-packages/*.dist-info")}
    assert builder == {"pip", "setuptools", "shtab"}


def locked(name):
    """Give each release that a lock file names, with the hashes of its files."""
    text = (REPOSITORY / "packaging" / name).read_text()
    found = {}
    for part in re.split(r"^(?=\S)", text, flags=re.MULTILINE)[1:]:
        release, _, rest = part.partition("==")
        found[release] = re.findall(r"--hash=sha256:([0-9a-f]{64})\b", rest)
    return found


def test_the_lock_files_hold_what_the_program_and_its_builder_need_and_name_no_host():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert {re.split("[>=]", each)[0] for each in project["dependencies"]} <= set(locked("program.lock"))
    needed = (REPOSITORY / "packaging/requirements.txt").read_text().splitlines()
    assert {re.split("[>=]", each)[0] for each in needed if not each.startswith("#")} <= set(locked("builder.lock"))
    for name in ("program.lock", "builder.lock"):
        assert all(locked(name).values())
        assert "//" not in (REPOSITORY / "packaging" / name).read_text()


def test_the_lock_file_holds_the_wheels_of_every_python_and_architecture():
    """One wheel for each of four Pythons and two architectures, with and without musl, and the sources."""
    assert len(locked("program.lock")["cffi"]) > 4 * 2 * 2
    assert len(locked("program.lock")["python-pkcs11"]) > 4 * 2


@pytest.mark.parametrize("library", ["cryptography", "idna"])
def test_a_library_with_another_hash_than_the_locked_one_is_not_installed(library, wheels, tmp_path):
    lock = tmp_path / "tampered.lock"
    head, name, rest = (REPOSITORY / "packaging/program.lock").read_text().partition(f"\n{library}==")
    hashes, end, others = rest.partition("\n" + next(line for line in rest.splitlines()[1:] if line[0] != " "))
    lock.write_text(head + name + re.sub(r"sha256:[0-9a-f]{8}", f"sha256:{'0' * 8}", hashes) + end + others)
    with pytest.raises(AssertionError, match="DO NOT MATCH THE HASHES"):
        packaged([REPOSITORY / "packaging/install.sh"], tmp_path / "image", LOCK=str(lock), **wheels)
    assert not (tmp_path / "image" / PROGRAM).exists()


def test_an_installation_that_fails_leaves_the_one_before(image, tmp_path):
    tree = shutil.copytree(image, tmp_path / "image", symlinks=True)
    (tmp_path / "none").mkdir()
    with pytest.raises(AssertionError, match="No matching distribution found"):
        packaged([REPOSITORY / "packaging/install.sh"], tree, PIP_NO_INDEX="1", PIP_FIND_LINKS=str(tmp_path / "none"))
    assert run(tree, PROGRAM, "--version").stdout.startswith("renew-client-cert ")
    assert sorted(path.relative_to(tree) for path in tree.rglob("*")) == sorted(
        path.relative_to(image) for path in image.rglob("*")
    )


def test_every_document_that_the_units_and_the_manual_name_is_installed(image):
    units = [path.read_text() for path in (image / "usr/lib/systemd/system").iterdir()]
    manual = gzip.decompress((image / "usr/share/man/man8/renew-client-cert.8.gz").read_bytes()).decode()
    named = set(re.findall(r"[/\w-]*docs/[\w.]*\w", "\n".join([*units, manual.replace("\\-", "-")])))
    doc = "/usr/share/doc/renew-client-cert"
    assert {f"{doc}/docs/installation.md", "docs/status.md"} <= named
    # Those that the program names are below the folder that the manual names.
    assert f"{doc}/" in manual.replace("\\-", "-")
    missing = [name for name in named if not (image / f"{doc}/{name.removeprefix(f'{doc}/')}".lstrip("/")).exists()]
    assert missing == []


def test_how_to_stop_the_daemon_for_good_is_said_wherever_people_look(image):
    manual = gzip.decompress((image / "usr/share/man/man8/renew-client-cert.8.gz").read_bytes()).decode()
    places = [path.read_text() for path in (INSTALLATION, REPOSITORY / "README.md")]
    unit = (image / "usr/lib/systemd/system/renew-client-cert.service").read_text()
    for text in (*places, manual.replace("\\-", "-"), unit):
        assert "systemctl stop renew-client-cert.path renew-client-cert.service" in text


def test_the_stock_handler_is_kept_and_comes_back(image, tmp_path):
    assert (image / f"{HANDLER}.fioconfig").read_text() == STOCK
    tree = shutil.copytree(image, tmp_path / "image", symlinks=True)
    enabled = ["renew-client-cert.path", "renew-client-cert-offline.service", "renew-client-cert-if-due.timer"]
    subprocess.run(["systemctl", f"--root={tree}", "enable", *enabled], check=True, capture_output=True)
    packaged([REPOSITORY / "packaging/uninstall.sh"], tree)
    left = [path for path in tree.rglob("*") if path.is_symlink() or not path.is_dir()]
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


def test_the_shell_completes_the_names_of_files_and_folders(image, tmp_path):
    completion = image / "usr/share/bash-completion/completions/renew-client-cert"
    (tmp_path / "unmistakable-folder").mkdir()
    (tmp_path / "unmistakable-file").touch()
    master, terminal = pty.openpty()
    with (
        os.fdopen(master, "r+b", buffering=0) as keyboard,
        subprocess.Popen(
            ["bash", "--noprofile", "--norc", "-i"],
            cwd=tmp_path,
            env={"PATH": os.environ["PATH"], "PS1": "ready> ", "TERM": "dumb"},
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            start_new_session=True,
        ) as shell,
    ):
        os.close(terminal)

        def shows(text):
            seen = b""
            while text not in seen:
                assert select.select([keyboard], [], [], 20)[0], f"expected {text!r}, found {seen!r}"
                seen += keyboard.read(4096)

        try:
            keyboard.write(f". {completion}; echo loaded-$((1 + 1))\n".encode())
            shows(b"loaded-2")
            keyboard.write(b"renew-client-cert --storage-dir unmistakable-fo\t")
            shows(b"unmistakable-folder/")
            keyboard.write(b"\x15renew-client-cert rotate --config-file unmistakable-fi\t")
            shows(b"unmistakable-file")
        finally:
            shell.kill()


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
    assert first == "#!/usr/bin/python3 -IS"
    assert Path(image / PROGRAM).stat().st_mode & 0o777 == 0o755
