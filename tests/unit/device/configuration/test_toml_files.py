"""The merged TOML configuration: which value counts, and where an update goes."""

import os

import pytest

from handler.device.configuration.toml_files import SotaConfig
from handler.errors import RequestRefusedError
from tests.privileges import unprivileged

KEY, CERTIFICATE = "import.tls_pkey_path", "import.tls_clientcert_path"
NEW = {KEY: "/new/pkey.pem", CERTIFICATE: "/new/client.pem"}


def identity(key="/old/pkey.pem", certificate="/old/client.pem"):
    return f'[import]\ntls_pkey_path = "{key}"\ntls_clientcert_path = "{certificate}"\n'


# Which value counts


def test_alphabetically_last_file_wins_whatever_its_folder(tree):
    tree.write("usr/90-last.toml", 'a.b = "usr"')
    tree.write("etc/10-first.toml", 'a.b = "etc"\na.c = "only here"')
    assert tree.load().get("a.b") == "usr"
    assert tree.load().get("a.c") == "only here"
    assert tree.load().origin("a.b") == tree.root / "usr" / "90-last.toml"


def test_later_search_path_replaces_a_file_of_the_same_name(tree):
    tree.write("usr/sota.toml", 'a.b = "usr"\na.c = "usr"')
    tree.write("sota.toml", 'a.b = "var"\na.c = "var"')
    tree.write("etc/sota.toml", 'a.b = "etc"')
    assert tree.load().get("a.b") == "etc"
    assert tree.load().get("a.c") is None


def test_empty_text_is_passed_over_as_fioconfig_does(tree):
    tree.write("etc/z.toml", 'a.b = ""')
    tree.write("sota.toml", 'a.b = "x"')
    assert tree.load().get("a.b") == "x"


def test_only_toml_files_of_a_folder_count(tree):
    tree.write("etc/a.toml.bak", "a.b = 1")
    (tree.root / "etc" / "folder.toml").mkdir()
    (tree.root / "etc" / "gone.toml").symlink_to("nowhere")
    assert tree.load().files == ()


def test_a_file_that_is_none_is_named_and_not_its_folder(tree):
    tree.write("etc/a.toml", "a.b = 'x'")
    (tree.root / "etc" / "loop.toml").symlink_to("loop.toml")
    os.mkfifo(tree.root / "etc" / "pipe.toml")
    files = [tree.root / "etc" / name for name in ("pipe.toml", "loop.toml")]
    assert tree.load().problems == [f"{file} is not a file; remove it" for file in files]


def test_file_that_is_masked_overrides_nothing_and_is_never_written(tree):
    tree.write("usr/z-90.toml", identity("/masked"))
    tree.write("etc/z-50-fioctl.toml", identity())
    (tree.root / "etc/z-90.toml").symlink_to(os.devnull)
    sota = tree.load()
    assert (sota.problems, sota.get(KEY)) == ([], "/old/pkey.pem")
    with pytest.raises(RequestRefusedError, match="cannot be changed"):
        sota.check_writable([KEY])


def test_missing_paths_are_fine(tmp_path):
    sota = SotaConfig.load([tmp_path / "none", tmp_path / "none.toml"])
    assert sota.get("a.b") is None
    assert sota.get("a.b", "default") == "default"
    assert sota.origin("a.b") is None
    with pytest.raises(RequestRefusedError, match=r"a\.b is not set: expected it in one of .*none\.toml"):
        sota.require("a.b")


def test_missing_key_is_refused_with_the_files_that_were_searched(tree):
    file = tree.write("sota.toml", "tls = 'no table'")
    with pytest.raises(RequestRefusedError, match=rf"tls\.server is not set: expected it in one of {file}"):
        tree.load().require("tls.server")


@pytest.mark.parametrize("value", ["1", "true", "['x']", "{ c = 1 }"])
def test_value_that_is_no_text_is_refused_with_its_file(tree, value):
    file = tree.write("sota.toml", f"a.b = {value}")
    with pytest.raises(RequestRefusedError, match=rf"{file}: a\.b is not a text"):
        tree.load().get("a.b")


@pytest.mark.parametrize(
    ("content", "line"), [(b'[a]\nb = "hunter2\n', "line 2"), (b"a = 1\n\n\xff\n", "line 3"), (b"[" * 9999, "line 1")]
)
def test_file_that_is_not_toml_is_refused_with_its_line(tree, content, line):
    (tree.root / "sota.toml").write_bytes(content)
    with pytest.raises(RequestRefusedError, match=rf"{tree.root / 'sota.toml'} is not TOML.*{line}") as caught:
        tree.load().get("a.c")
    assert "hunter2" not in str(caught.value)


def test_bytes_that_are_not_utf8_stay_and_are_no_value(tree):
    file = tree.write("sota.toml", identity())
    file.write_bytes(b"# caf\xe9\n" + identity().encode() + b'a = "caf\xe9"\n')
    with pytest.raises(RequestRefusedError, match=rf"{file}: import\.a is not UTF-8"):
        tree.load().get("import.a")
    tree.load().update(NEW)
    assert file.read_bytes() == b"# caf\xe9\n" + identity(*NEW.values()).encode() + b'a = "caf\xe9"\n'


def test_value_that_no_path_can_be_is_refused_by_its_name(tree):
    file = tree.write("sota.toml", 'a.b = "/var/sota/x\\u0000.pem"')
    with pytest.raises(RequestRefusedError, match=rf"{file}: a\.b is not UTF-8, or holds a NUL"):
        tree.load().get("a.b")


UNREADABLE = {
    "no TOML": lambda path: path.write_text("[a"),
    "a FIFO": os.mkfifo,
    "too large": lambda path: path.write_text("#" * 300_000),
    "a key twice": lambda path: path.write_text("a = 1\na = 2\n"),
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_file_that_cannot_be_read_hinders_only_values_that_it_may_override(tree, kind):
    odd = tree.root / "etc" / "m.toml"
    UNREADABLE[kind](odd)
    tree.write("etc/a.toml", 'a.below = "x"\n')
    tree.write("sota.toml", identity() + "[a]\nabove = 'x'\n")
    sota = tree.load()
    assert sota.get("a.above") == "x"
    for key in ("a.below", "a.nowhere"):
        with pytest.raises(RequestRefusedError, match=rf"{odd} .*until it can be read, it may override {key}"):
            sota.get(key)
    assert len(sota.problems) == 1
    assert sota.update(NEW) == tree.root / "sota.toml"


def test_update_below_a_file_that_cannot_be_read_is_refused(tree):
    tree.write("etc/zz.toml", "[a")
    file = tree.write("sota.toml", identity())
    before = tree.content()
    for act in (lambda: tree.load().check_writable(list(NEW)), lambda: tree.load().update(NEW)):
        with pytest.raises(RequestRefusedError, match=r"zz\.toml is not TOML: line 1"):
            act()
    assert tree.content() == before
    assert file.read_text() == identity()


def test_value_without_quotes_is_read_and_said(tree):
    file = tree.write("etc/90-callback.toml", "[sota_client]\ncallback_program = /usr/bin/callback-handler\n")
    tree.write("sota.toml", identity())
    sota = tree.load()
    assert sota.get("sota_client.callback_program") == "/usr/bin/callback-handler"
    assert sota.problems == []
    (said,) = sota.odd
    assert said.startswith(f"{file}, line 2: the value of sota_client.callback_program has no quotes")


def test_file_that_fioconfig_could_not_read_is_not_edited(tree):
    file = tree.write("sota.toml", identity() + "[s]\na = x\nb = 'y'\n")
    before = tree.content()
    with pytest.raises(RequestRefusedError, match=rf"{file}: line 6: fioconfig cannot read"):
        tree.load().check_writable(list(NEW))
    assert tree.content() == before
    assert any("fioconfig cannot read" in each for each in tree.load().odd)


@pytest.mark.parametrize("name", ["sota.toml", "etc"])
def test_file_or_folder_that_may_not_be_read_is_refused(tree, name):
    tree.write("sota.toml", "")
    (tree.root / name).chmod(0)
    with unprivileged(), pytest.raises(RequestRefusedError, match=f"{tree.root / name} cannot be read.*as root"):
        tree.load().get("a.b")


# Where an update goes


def test_update_goes_into_the_file_that_has_the_keys(tree):
    tree.write("etc/a.toml", '[pacman]\ntags = "x"\n')
    tree.write("etc/z.toml", '[pacman]\ntags = "y"\n')
    file = tree.write("sota.toml", identity(), mode=0o640)
    before = tree.content()
    sota = tree.load()
    assert sota.check_writable(list(NEW)) == file
    assert tree.content() == before
    assert sota.update(NEW) == file
    assert {key: sota.get(key) for key in NEW} == NEW
    assert {key: tree.load().get(key) for key in NEW} == NEW
    assert file.read_text() == identity("/new/pkey.pem", "/new/client.pem")
    assert file.stat().st_mode & 0o777 == 0o640
    assert {path for path, content in tree.content().items() if before[path] != content} == {file}


def test_both_keys_go_into_the_most_significant_file_that_has_any(tree):
    tree.write("etc/a.toml", identity())
    file = tree.write("sota.toml", '[import]\ntls_clientcert_path = "/old/client.pem"\n')
    assert tree.load().update(NEW) == file
    assert {key: tree.load().get(key) for key in NEW} == NEW


def test_file_that_has_a_key_empty_is_not_left_to_shadow(tree):
    tree.write("etc/a.toml", identity())
    file = tree.write("sota.toml", identity("", ""))
    assert tree.load().update(NEW) == file


def test_nothing_is_written_where_the_values_stand_already(tree):
    file = tree.write("sota.toml", identity(*NEW.values()))
    inode = file.stat().st_ino
    assert tree.load().update(NEW) == file
    assert file.stat().st_ino == inode


def test_remotely_managed_file_is_never_written(tree):
    managed = tree.write("etc/z-50-fioctl.toml", identity())
    tree.write("sota.toml", identity())
    with pytest.raises(RequestRefusedError, match=r"z-50-fioctl\.toml"):
        tree.load().update(NEW)
    higher = tree.write("etc/z-60-local.toml", "")
    before = managed.read_bytes()
    assert tree.load().update(NEW) == higher
    assert managed.read_bytes() == before
    assert {key: tree.load().get(key) for key in NEW} == NEW


@pytest.mark.parametrize("read_only", ["m.toml", "."])
def test_read_only_file_is_passed_over_for_the_next_more_significant_one(tree, read_only):
    held = tree.write("usr/m.toml", identity())
    tree.write("etc/a.toml", "")
    tree.write("etc/zz.toml", "")
    target = tree.write("sota.toml", "")
    (tree.root / "usr" / read_only).chmod(0o555)
    with unprivileged():
        assert tree.load().check_writable(list(NEW)) == target
        assert tree.load().update(NEW) == target
        assert {key: tree.load().get(key) for key in NEW} == NEW
    assert held.read_text() == identity()


def test_file_whose_owner_could_not_be_kept_is_not_written(tree):
    file = tree.write("sota.toml", identity())
    if os.geteuid() == 0:  # only root can have given it to somebody else
        os.chown(file, 0, 0)
        with unprivileged(), pytest.raises(RequestRefusedError, match="as root"):
            tree.load().check_writable(list(NEW))
    assert tree.load().check_writable(list(NEW)) == file


def test_update_without_any_writable_file_is_refused_with_their_names(tree):
    file = tree.write("sota.toml", identity(), mode=0o444)
    before = tree.content()
    with unprivileged():
        for act in (lambda: tree.load().check_writable(list(NEW)), lambda: tree.load().update(NEW)):
            with pytest.raises(RequestRefusedError, match=rf"{file}.*as root"):
                act()
    assert tree.content() == before


def test_keys_that_no_file_has_are_refused(tree):
    tree.write("sota.toml", "a = 1")
    with pytest.raises(RequestRefusedError, match=f"none of the TOML files has {KEY}"):
        tree.load().check_writable(list(NEW))


def test_file_that_cannot_be_edited_is_refused_before_anything_changes(tree):
    file = tree.write("sota.toml", '[p11]\ntls_pkey_id = "01"\n[[import]]\na = 1\n')
    with pytest.raises(RequestRefusedError, match=f"{file}: .* cannot be set there"):
        tree.load().check_writable(["p11.tls_pkey_id", KEY])


def test_linked_sota_toml_stays_a_link(tree):
    real = tree.write("etc/real", identity())
    (tree.root / "sota.toml").symlink_to("etc/real")
    assert tree.load().update(NEW) == tree.root / "sota.toml"
    assert (tree.root / "sota.toml").is_symlink()
    assert real.read_text() == identity(*NEW.values())


def test_file_is_read_again_before_its_update(tree):
    file = tree.write("sota.toml", identity())
    sota = tree.load()
    file.write_text("# meanwhile\n" + identity())
    sota.update(NEW)
    assert file.read_text() == "# meanwhile\n" + identity(*NEW.values())


def test_file_is_parsed_once_and_again_when_its_text_changes(tree):
    path = tree.write("sota.toml", '[tls]\nserver = "one"\n')
    first, second = (SotaConfig.load([path]).files[0] for _ in range(2))
    assert first is second
    before = path.stat()
    path.write_text('[tls]\nserver = "two"\n')
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # of the same size and time
    assert SotaConfig.load([path]).get("tls.server") == "two"
