"""config.encrypted: the copy for the new key, and what is made of the file after a switch that was cut off."""

import hashlib
import json
import os

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from handler.crypto import ecies
from handler.device.config_encrypted import LocalConfig
from handler.errors import RefusedError
from tests.privileges import reachable_folder, unprivileged

OLD, NEW, FOREIGN = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))
PROPERTY = settings(max_examples=30, deadline=None, database=None)
MTIME = 1_669_058_841_123_456_789


def encrypted(key, plaintext):
    return {"Value": ecies.encrypt(key.public_key(), plaintext), "Unencrypted": False, "OnChanged": None}


def plain(text):
    return {"Value": text, "Unencrypted": True, "OnChanged": ["/usr/share/fioconfig/handlers/x"]}


def never():
    raise AssertionError("no key is needed here")


class Files:
    """The two files in a folder."""

    def __init__(self, folder):
        self.path = folder / "config.encrypted"
        self.aside = folder / "aside"
        self.config = LocalConfig(self.path, self.aside)

    def store(self, /, **entries):
        self.path.write_text(json.dumps(entries, indent=1))
        self.path.chmod(0o640)
        os.utime(self.path, ns=(MTIME, MTIME))

    def settle(self, prepared_from=None, old=OLD, new=NEW):
        return self.config.settle(prepared_from, lambda: old, lambda: new)

    def names(self):
        return sorted(each.name for each in self.path.parent.iterdir())


def readable(path, key):
    """Give the plaintexts of a file of encrypted entries."""
    return {
        name: entry["Value"].encode() if entry["Unencrypted"] else ecies.decrypt(key, entry["Value"])
        for name, entry in json.loads(path.read_bytes()).items()
    }


@pytest.fixture
def files(tmp_path):
    return Files(tmp_path)


@pytest.fixture
def stored(files):
    """Give files of a device with one secret and one open value."""
    files.store(secret=encrypted(OLD, b"top"), open=plain("shown"))
    return files


# A device without the file


def test_missing_file_has_no_digest_and_no_values_and_is_readable(files):
    assert files.config.digest() is None
    assert not files.config.has_encrypted_values()
    assert files.config.is_readable(NEW)


def test_missing_file_is_not_prepared_and_an_older_copy_is_removed(files):
    files.aside.write_text("{}")
    assert files.config.prepare(OLD, NEW) is None
    assert files.names() == []


def test_missing_file_is_settled_without_a_key_and_is_not_made_of_the_copy(files):
    files.aside.write_text("{}")
    assert not files.config.settle("00", never, never)
    assert files.names() == []


# What is in the file


def test_digest_is_that_of_the_bytes_of_the_file(stored):
    assert stored.config.digest() == hashlib.sha256(stored.path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("entries", "found"),
    [
        ({}, False),
        ({"a": plain("x")}, False),
        ({"a": {"Value": "", "Unencrypted": False}}, False),
        ({"a": plain("x"), "b": encrypted(OLD, b"")}, True),
    ],
)
def test_encrypted_values_are_found(files, entries, found):
    files.store(**entries)
    assert files.config.has_encrypted_values() is found


def test_only_the_key_of_every_value_reads_the_file(files):
    files.store(a=encrypted(OLD, b"1"), b=encrypted(NEW, b"2"), c=encrypted(OLD, b"3"))
    assert not files.config.is_readable(OLD)
    with pytest.raises(RefusedError, match="'b' cannot be decrypted"):
        files.config.check_readable(OLD)
    with pytest.raises(RefusedError, match="'a' cannot be decrypted"):
        files.config.check_readable(NEW)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"a": 1}', b"\xff"], ids=repr)
def test_file_that_is_no_configuration_is_refused_by_name_and_left_as_it_is(files, content):
    files.path.write_bytes(content)
    for use in (
        files.config.has_encrypted_values,
        lambda: files.config.check_readable(OLD),
        lambda: files.config.prepare(OLD, NEW),
    ):
        with pytest.raises(RefusedError, match=r"config\.encrypted"):
            use()
    assert not files.config.is_readable(OLD)
    assert not files.settle()  # nothing is held up by it once the key is switched
    assert files.path.read_bytes() == content
    assert files.names() == ["config.encrypted"]


def fifo(path):
    os.mkfifo(path)


def device(path):
    path.symlink_to("/dev/zero")


def loop(path):
    path.symlink_to(path)


def huge(path):
    path.touch()
    os.truncate(path, 10**12)


NO_FILE = [(fifo, "not a regular file"), (device, "not a regular file"), (loop, "not a regular file"), (huge, "more")]


@pytest.mark.parametrize(("make", "said"), NO_FILE)
def test_what_cannot_be_the_file_is_refused_before_the_switch(files, make, said):
    make(files.path)
    for check in (files.config.has_encrypted_values, lambda: files.config.check_readable(OLD)):
        with pytest.raises(RefusedError, match=f"config.encrypted .*{said}.* remove it"):
            check()
    assert not files.config.is_readable(OLD)
    assert files.config.digest()


@pytest.mark.parametrize("make", [fifo, huge])
def test_what_cannot_be_the_file_is_replaced_by_the_copy_after_the_switch(stored, make):
    prepared_from = stored.config.prepare(OLD, NEW)
    stored.path.unlink()
    make(stored.path)
    assert stored.settle(prepared_from)
    assert readable(stored.path, NEW) == {"secret": b"top", "open": b"shown"}
    stored.path.unlink()
    make(stored.path)
    assert not stored.settle()
    assert stored.path.stat().st_mtime_ns == 0


def test_file_that_must_not_be_written_is_refused_before_the_switch():
    """For root only an immutable file is one (chattr +i): it would be found after sota.toml was switched."""
    with reachable_folder() as folder:
        files = Files(folder)
        files.path.write_bytes(b"{}")
        files.path.chmod(0o444)
        with unprivileged(), pytest.raises(RefusedError, match=f"^{files.path} cannot be written: "):
            files.config.check_replaceable()


def test_file_that_must_not_be_read_is_an_error_and_not_a_missing_one():
    with reachable_folder() as folder:
        files = Files(folder)
        files.store(a=plain("x"))
        files.path.chmod(0o000)
        with unprivileged():
            for use in (files.config.digest, lambda: files.config.is_readable(OLD), files.settle):
                with pytest.raises(PermissionError):
                    use()


# The copy aside


def test_copy_is_for_the_new_key_and_its_owner_only_and_the_file_stays(stored):
    before = stored.path.read_bytes()
    digest = stored.config.prepare(OLD, NEW)
    assert digest == hashlib.sha256(before).hexdigest()
    assert stored.path.read_bytes() == before
    assert readable(stored.aside, NEW) == {"secret": b"top", "open": b"shown"}
    assert stored.aside.stat().st_mode & 0o7777 == 0o600


def test_copy_can_be_made_again_of_a_file_that_changed(stored):
    first = stored.config.prepare(OLD, NEW)
    stored.store(secret=encrypted(OLD, b"changed"))
    assert stored.config.prepare(OLD, NEW) != first
    assert readable(stored.aside, NEW) == {"secret": b"changed"}


def test_value_for_the_new_key_already_is_copied_as_it_is(files):
    entry = encrypted(NEW, b"top")
    files.store(secret=entry)
    files.config.prepare(OLD, NEW)
    assert json.loads(files.aside.read_bytes()) == {"secret": entry}


def test_value_for_neither_key_is_warned_of_by_name_and_left_as_it_is(files, caplog):
    """Before anything changes it is refused; by now it is lost, and others need not be."""
    lost = encrypted(FOREIGN, b"2")
    files.store(good=encrypted(OLD, b"1"), lost=lost)
    files.config.prepare(OLD, NEW)
    copy = json.loads(files.aside.read_bytes())
    assert copy["lost"] == lost
    assert ecies.decrypt(NEW, copy["good"]["Value"]) == b"1"
    assert "'lost' can be decrypted neither" in caplog.text


def test_copy_is_forgotten_as_often_as_asked(stored):
    stored.config.prepare(OLD, NEW)
    for _ in range(2):
        stored.config.forget()
        assert stored.names() == ["config.encrypted"]


# After the switch


def test_copy_of_the_file_as_it_still_is_takes_its_place_without_a_key(stored):
    digest = stored.config.prepare(OLD, NEW)
    copy = stored.aside.read_bytes()
    assert stored.config.settle(digest, never, never)
    assert stored.path.read_bytes() == copy
    assert stored.names() == ["config.encrypted"]


@pytest.mark.parametrize("with_copy", [True, False])
def test_settled_file_keeps_its_modification_time_and_mode(stored, with_copy):
    digest = stored.config.prepare(OLD, NEW)
    if not with_copy:
        stored.config.forget()
    assert stored.settle(digest)
    assert stored.path.stat().st_mtime_ns == MTIME
    assert stored.path.stat().st_mode & 0o7777 == 0o640


def test_settling_is_done_once_however_often_it_is_run(stored):
    digest = stored.config.prepare(OLD, NEW)
    assert stored.settle(digest)
    settled = stored.path.read_bytes()
    assert not stored.settle(digest)
    assert not stored.settle(None)
    assert stored.path.read_bytes() == settled


def test_file_that_changed_since_the_copy_was_made_is_encrypted_again_and_the_copy_thrown_away(stored):
    digest = stored.config.prepare(OLD, NEW)
    stored.store(secret=encrypted(OLD, b"newer"))
    assert stored.settle(digest)
    assert readable(stored.path, NEW) == {"secret": b"newer"}
    assert stored.names() == ["config.encrypted"]


def test_copy_that_nobody_remembers_making_is_not_taken(stored):
    stored.aside.write_text('{"secret": "of another rotation"}')
    assert stored.settle(None)
    assert readable(stored.path, NEW) == {"secret": b"top", "open": b"shown"}
    assert stored.names() == ["config.encrypted"]


def test_copy_that_is_gone_is_no_loss(stored):
    digest = stored.config.prepare(OLD, NEW)
    stored.config.forget()
    assert stored.settle(digest)
    assert readable(stored.path, NEW) == {"secret": b"top", "open": b"shown"}


def test_readable_file_is_left_alone_without_asking_for_the_old_key(files):
    files.store(secret=encrypted(NEW, b"top"))
    before = files.path.read_bytes()
    assert not files.config.settle(None, never, lambda: NEW)
    assert files.path.read_bytes() == before


def test_file_without_encrypted_values_is_left_alone_without_any_key(files):
    files.store(open=plain("shown"))
    before = files.path.read_bytes()
    assert not files.config.settle(None, never, never)
    assert files.path.read_bytes() == before


def test_value_that_no_key_reads_is_warned_of_and_the_others_are_encrypted_again(files, caplog):
    lost = encrypted(FOREIGN, b"2")
    files.store(good=encrypted(OLD, b"1"), lost=lost)
    files.aside.write_text("{}")
    assert files.settle()
    assert "'lost' can be decrypted neither" in caplog.text
    after = json.loads(files.path.read_bytes())
    assert after["lost"] == lost
    assert ecies.decrypt(NEW, after["good"]["Value"]) == b"1"
    assert files.names() == ["config.encrypted"]


@pytest.mark.parametrize("torn", [b"", b'{"a": {"Val', b"\0" * 64], ids=["empty", "cut", "zeros"])
def test_a_file_that_a_power_loss_tore_gets_what_was_kept_aside(stored, torn):
    before = stored.path.stat()
    digest = stored.config.prepare(OLD, NEW)
    expected = readable(stored.aside, NEW)
    stored.path.write_bytes(torn)
    assert stored.config.settle(digest, lambda: OLD, lambda: NEW)
    assert readable(stored.path, NEW) == expected
    assert stored.path.stat().st_mode == before.st_mode
    assert stored.path.stat().st_mtime_ns == 0
    assert stored.names() == ["config.encrypted"]


@pytest.mark.parametrize("torn", [b"", b'{"a": {"Val'], ids=["empty", "cut"])
def test_a_file_that_was_torn_before_the_switch_gets_what_was_kept_aside_too(stored, torn):
    stored.config.prepare(OLD, NEW)
    expected = readable(stored.aside, NEW)
    stored.path.write_bytes(torn)
    digest = stored.config.prepare(OLD, NEW)
    assert stored.config.settle(digest, lambda: OLD, lambda: NEW)
    assert readable(stored.path, NEW) == expected
    assert stored.path.stat().st_mtime_ns == 0  # fioconfig fetches again what was torn
    assert stored.names() == ["config.encrypted"]


def test_a_file_and_a_copy_that_are_both_torn_are_left_to_fioconfig(stored, caplog):
    digest = stored.config.prepare(OLD, NEW)
    for path in (stored.path, stored.aside):
        path.write_bytes(b"{")
    with pytest.raises(RefusedError, match="is not JSON"):
        stored.config.prepare(OLD, NEW)
    assert not stored.config.settle(digest, lambda: OLD, lambda: NEW)
    assert "fioconfig fetches it again" in caplog.text
    assert stored.path.stat().st_mtime_ns == 0
    assert stored.names() == ["config.encrypted"]


def test_the_copy_takes_its_place_without_room_for_another_one(stored):
    """The very file that was written before: a full disk does not matter."""
    digest = stored.config.prepare(OLD, NEW)
    before, copy = stored.path.stat(), stored.aside.stat()
    assert stored.config.settle(digest, never, never)
    after = stored.path.stat()
    assert after.st_ino == copy.st_ino
    assert (after.st_mode, after.st_uid, after.st_mtime_ns) == (before.st_mode, before.st_uid, before.st_mtime_ns)


def test_the_copy_takes_the_place_of_what_a_link_names(stored, tmp_path):
    target = tmp_path / "elsewhere.encrypted"
    stored.path.rename(target)
    stored.path.symlink_to(target)
    digest = stored.config.prepare(OLD, NEW)
    assert stored.config.settle(digest, never, never)
    assert stored.path.is_symlink()
    assert readable(target, NEW)


@PROPERTY
@given(st.dictionaries(st.text(max_size=8), st.tuples(st.sampled_from([OLD, NEW, None]), st.binary(max_size=20))))
def test_every_mixture_of_values_for_either_key_keeps_its_content(tmp_path_factory, content):
    files = Files(tmp_path_factory.mktemp("storage"))
    expected = {}
    entries = {}
    for name, (key, value) in content.items():
        entries[name] = plain(value.hex()) if key is None else encrypted(key, value)
        expected[name] = value.hex().encode() if key is None else value
    files.store(**entries)
    changed = any(key is OLD for key, _ in content.values())
    assert files.settle() is changed
    assert readable(files.path, NEW) == expected
    assert list(json.loads(files.path.read_bytes())) == list(content)
    assert not files.settle()
