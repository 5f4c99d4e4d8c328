"""The Yocto layer, as far as it can be tried without BitBake: what its recipes ask for, and what they install."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import handler
from tests.simulators.device import REPOSITORY
from tests.unit.packaging.recipe import LAYER, Recipe

PROGRAM, FIOCONFIG = "renew-client-cert_*.bb", "fioconfig_%.bbappend"
HANDLERS = "usr/share/fioconfig/handlers"
# Python's modules that are not in python3-core (python3-manifest.json of OE-core, scarthgap and wrynose).
ELSEWHERE = {
    "_ssl": "io",
    "base64": "netclient",
    "ctypes": "ctypes",
    "datetime": "datetime",
    "email": "email",
    "fcntl": "fcntl",
    "hashlib": "crypt",
    "hmac": "netclient",
    "json": "json",
    "logging": "logging",
    "random": "math",
    "secrets": "netclient",
    "socket": "io",
    "ssl": "io",
    "tomllib": "tomllib",
    "urllib": "netclient",
    "uuid": "netclient",
    "http": "netclient",
    "math": "math",
    "resource": "resource",
}
# fmt: off
CORE = {
    "__future__", "argparse", "binascii", "codecs", "copy", "collections", "contextlib", "dataclasses", "enum", "errno",
    "functools", "gc", "importlib", "io", "ipaddress", "itertools", "os", "pathlib", "re", "select", "selectors",
    "shutil", "signal", "stat", "struct", "subprocess", "sys", "tempfile", "textwrap", "threading", "time", "types",
    "typing", "unicodedata", "warnings", "weakref", "zlib",
}
# fmt: on


def imported():
    """Give the top-level names of what the program imports of others."""
    for top in ("handler", "hsm"):
        for path in (REPOSITORY / top).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    yield from (each.name.split(".")[0] for each in node.names)
                elif isinstance(node, ast.ImportFrom) and node.level == 0:
                    yield node.module.split(".")[0]


def package_of(module):
    """Give the package of OpenEmbedded that holds a module; KeyError: python3-manifest.json knows, add it above."""
    if module in sys.stdlib_module_names:
        return "python3-" + ("core" if module in CORE else ELSEWHERE[module])
    return f"python3-{module}"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Build the wheel from a copy and install it, as the recipe and the classes that it inherits do."""
    work = tmp_path_factory.mktemp("recipe")
    recipe = Recipe(PROGRAM, B=str(work / "build"), D=str(work / "image"))
    site = work / "image/usr/lib64/python3.12/site-packages"
    shell(
        f"mkdir {work}/build\n{recipe.function('do_configure')}\n"
        f"{sys.executable} -m pip install -q --no-deps --no-build-isolation --no-compile --target {site} {work}/build\n"
        f"mkdir -p {work}/image/usr/bin && mv {site}/bin/* {work}/image/usr/bin && rmdir {site}/bin\n"
        f'nativepython3() {{ {sys.executable} "$@"; }}\n{recipe.function("do_install:append")}'
    )
    return recipe, work / "image"


def shell(script):
    """Run what BitBake would run."""
    done = subprocess.run(["sh", "-euc", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def files(folder):
    """Give the files below a folder, relative to it."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}


def test_the_recipe_depends_on_what_the_program_imports_and_on_nothing_else():
    needed = {package_of(module) for module in imported() if module not in {"handler", "hsm"}}
    assert set(Recipe(PROGRAM).words("RDEPENDS:${PN}")) == needed


def test_the_recipe_is_of_the_version_that_the_program_has():
    assert Recipe(PROGRAM).path.stem == f"renew-client-cert_{handler.__version__.split('.dev')[0]}"


def test_the_sources_are_the_checkout_in_which_the_layer_lies():
    folder = Recipe(PROGRAM).path.parent
    assert (folder / "../../../../.." / "pyproject.toml").resolve() == REPOSITORY / "pyproject.toml"
    assert "THISDIR') + '/../../../../..'" in Recipe(PROGRAM).path.read_text()


def test_a_build_writes_nothing_into_the_checkout(built):
    assert not list(REPOSITORY.glob("oe-*"))
    assert 'EXTERNALSRC_SYMLINKS = ""' in built[0].path.read_text()


def test_every_installed_file_belongs_to_one_package(built):
    recipe, image = built
    claimed = {}
    for package in ("${PN}-timer", "${PN}-actions", "${PN}"):
        claimed[package] = recipe.words(f"FILES:{package}")
        if package in {"${PN}-timer", "${PN}"}:
            units = recipe.words(f"SYSTEMD_SERVICE:{package}")
            claimed[package] += [f"/usr/lib/systemd/system/{unit}" for unit in units]
    # BitBake's own: programs, and documents in ${PN}-doc.
    claimed["by default"] = ["/usr/sbin", "/usr/share/doc"]
    for file in files(image):
        owners = [each for each, places in claimed.items() if any(f"/{file}/".startswith(f"{p}/") for p in places)]
        assert len(owners) == 1, f"{file}: {owners}"


def test_the_timer_comes_with_a_package_of_its_own_that_enables_it(built):
    recipe, image = built
    (preset,) = recipe.words("FILES:${PN}-timer")
    assert (image / preset.lstrip("/")).read_text() == "enable renew-client-cert-if-due.timer\n"
    assert Path(preset).name < "80-renew-client-cert.preset"


def test_nothing_is_installed_where_a_device_keeps_its_own_files(built):
    assert {file.split("/")[0] for file in files(built[1])} == {"usr"}


def test_no_other_python_program_sees_the_modules(built):
    assert not list(built[1].rglob("site-packages"))
    assert (built[1] / "usr/lib/renew-client-cert/handler/cli.py").is_file()


def test_byte_code_survives_a_file_time_of_zero_and_is_not_hashed_at_every_start(built):
    code = list(built[1].rglob("*.pyc"))
    assert len(code) > 50
    assert {path.read_bytes()[4:8] for path in code} == {b"\1\0\0\0"}  # PEP 552: by hash, unchecked
    assert {b"/usr/lib/renew-client-cert/h" in path.read_bytes() for path in code} == {True}


def test_the_installed_program_starts(built):
    program = built[1] / "usr/sbin/renew-client-cert"
    assert program.read_text().startswith("#!/usr/bin/python3 -IS\n")
    program = program.read_text().replace("/usr/lib/renew-client-cert", f"{built[1]}/usr/lib/renew-client-cert")
    done = subprocess.run(
        [sys.executable, "-I", "-c", program, "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"renew-client-cert {handler.__version__}\n"


def test_one_package_owns_the_path_that_fioconfig_calls(built, tmp_path):
    append = Recipe(FIOCONFIG, D=str(tmp_path), PN="fioconfig")
    (tmp_path / HANDLERS).mkdir(parents=True)
    (tmp_path / HANDLERS / "renew-client-cert").touch()
    shell(append.function("do_install:append"))
    assert files(tmp_path) == {f"{HANDLERS}/renew-client-cert.fioconfig"}
    assert f"{HANDLERS}/renew-client-cert" in files(built[1])
    assert append.words("RRECOMMENDS:${PN}") == ["renew-client-cert"]


def test_the_layer_is_for_both_releases_and_is_complete():
    conf = (LAYER / "conf/layer.conf").read_text()
    assert 'LAYERSERIES_COMPAT_renew-client-cert = "scarthgap wrynose"' in conf
    assert (LAYER / "LICENSE").read_bytes() == (REPOSITORY / "LICENSE").read_bytes()
    assert "make layer" in (LAYER / "README.md").read_text()
