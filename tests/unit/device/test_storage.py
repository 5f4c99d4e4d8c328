"""Atomic files."""

import os
import resource
import struct
import subprocess
import sys
from contextlib import contextmanager

import pytest

from handler.device.storage import (
    MAX_BYTES,
    atomic_write,
    check_durable,
    exposure,
    read_regular,
    remove,
    remove_leftovers,
    why_irreplaceable,
)
from tests.privileges import NOBODY

KILLED_WHILE_WRITING = """
import resource, signal, sys
from pathlib import Path
from handler.device.storage import atomic_write
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
atomic_write(Path(sys.argv[1]), b"x" * 5000)
"""


WRITE = """
import sys
from pathlib import Path
from handler.device.storage import atomic_write
atomic_write(Path(sys.argv[1]), b"new")
"""


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def mode(path):
    return path.stat().st_mode & 0o7777


@contextmanager
def file_size_limit(size):
    """Let writing fail beyond so many bytes, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_new_file_is_whole_and_private(tmp_path):
    atomic_write(tmp_path / "new", b"x" * 100_000)
    assert (tmp_path / "new").read_bytes() == b"x" * 100_000
    assert mode(tmp_path / "new") == 0o600
    assert names_in(tmp_path) == ["new"]


def test_replaced_file_keeps_its_mode(tmp_path):
    path = tmp_path / "sota.toml"
    path.write_bytes(b"old")
    path.chmod(0o640)
    atomic_write(path, b"new")
    assert (path.read_bytes(), mode(path)) == (b"new", 0o640)


def test_given_mode_is_set_whatever_the_umask(tmp_path):
    before = os.umask(0o077)
    try:
        atomic_write(tmp_path / "file", b"", mode=0o644)
    finally:
        os.umask(before)
    assert mode(tmp_path / "file") == 0o644


def test_replaced_file_keeps_its_owner(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    if os.geteuid() == 0:  # only root can have given it to somebody else
        os.chown(path, NOBODY, NOBODY)
    before = path.stat()
    atomic_write(path, b"new")
    assert (path.stat().st_uid, path.stat().st_gid) == (before.st_uid, before.st_gid)
    assert path.stat().st_ino != before.st_ino


ACL = "system.posix_acl_access"
NONE = 0xFFFFFFFF


def acl(owner, group, other, *, nobody, mask):
    """Give an ACL as the kernel has it (linux/posix_acl_xattr.h), with an entry of a user's own."""
    entries = [(1, owner, NONE), (2, nobody, NOBODY), (4, group, NONE), (0x10, mask, NONE), (0x20, other, NONE)]
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def attributes(path):
    return {name: os.getxattr(path, name) for name in os.listxattr(path)}


def test_replaced_file_keeps_its_acl_and_attributes(tmp_path):
    path = tmp_path / "sota.toml"
    path.write_bytes(b"old")
    os.setxattr(path, ACL, acl(6, 0, 0, nobody=4, mask=6))
    os.setxattr(path, "user.note", b"by hand")
    os.setxattr(path, "security.selinux", b"system_u:object_r:var_t:s0\0")
    os.setxattr(path, "security.capability", bytes.fromhex("0100000200040000000000000000000000000000"))
    before = attributes(path)
    for number in range(2):
        atomic_write(path, b"new%d" % number)
        assert attributes(path) == {name: before[name] for name in before if name != "security.capability"}
        assert mode(path) == 0o660  # whose middle is the mask


def test_mask_of_an_acl_is_not_the_mode_of_the_group(tmp_path):
    """Where the ACL cannot be kept, as in a file system without: nobody gets more than before."""
    path = tmp_path / "sota.toml"
    path.write_bytes(b"old")
    os.setxattr(path, ACL, acl(6, 5, 4, nobody=4, mask=6))
    done = subprocess.run(
        [
            "strace",
            "-qq",
            "-o",
            "/dev/null",
            "-e",
            "inject=fsetxattr:error=EOPNOTSUPP",
            sys.executable,
            "-c",
            WRITE,
            path,
        ],
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (path.read_bytes(), ACL in os.listxattr(path), mode(path)) == (b"new", False, 0o644)


def test_default_acl_of_the_folder_gives_nobody_more(tmp_path):
    path = tmp_path / "sota.toml"
    path.write_bytes(b"old")
    path.chmod(0o660)
    os.setxattr(tmp_path, "system.posix_acl_default", acl(7, 7, 7, nobody=7, mask=7))
    atomic_write(path, b"new")
    atomic_write(tmp_path / "pkey.pem", b"new", mode=0o600)
    for each, expected in ((path, 0o660), (tmp_path / "pkey.pem", 0o600)):
        assert (os.listxattr(each), mode(each)) == ([], expected)


def test_file_of_our_own_takes_nothing_from_what_it_replaces(tmp_path):
    theirs, path = tmp_path / "theirs", tmp_path / "pkey.pem"
    theirs.write_bytes(b"old")
    os.chown(theirs, NOBODY, NOBODY)
    os.link(theirs, path)
    atomic_write(path, b"key", mode=0o600)
    assert (path.stat().st_uid, mode(path)) == (os.geteuid(), 0o600)
    path.unlink()
    path.symlink_to(theirs)
    atomic_write(path, b"key", mode=0o600)
    assert not path.is_symlink()
    assert theirs.read_bytes() == b"old"


def test_modification_time_is_kept_to_the_nanosecond(tmp_path):
    path = tmp_path / "config.encrypted"
    atomic_write(path, b"x", mtime_ns=1_669_058_841_123_456_789)
    assert path.stat().st_mtime_ns == 1_669_058_841_123_456_789


def test_symlink_stays_and_its_target_is_replaced(tmp_path):
    (tmp_path / "real").mkdir()
    target = tmp_path / "real" / "sota.toml"
    target.write_bytes(b"old")
    link = tmp_path / "sota.toml"
    link.symlink_to("real/sota.toml")
    atomic_write(link, b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"
    assert names_in(target.parent) == ["sota.toml"]


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with file_size_limit(1000), pytest.raises(OSError, match="File too large"):
        atomic_write(path, b"x" * 5000)
    assert path.read_bytes() == b"old"
    assert names_in(tmp_path) == ["file"]


def test_folder_in_the_place_of_the_file_fails_and_leaves_nothing(tmp_path):
    (tmp_path / "folder" / "in").mkdir(parents=True)
    with pytest.raises(OSError):
        atomic_write(tmp_path / "folder", b"x")
    assert names_in(tmp_path) == ["folder"]


def test_leftovers_of_a_cut_are_removed_and_nothing_else(tmp_path):
    kept = [".sota.toml.tmp", "sota.toml", ".x.renew-client-cert.tmp", "pkey.1.pem"]
    left = [".sota.toml.0123456789abcdef.renew-client-cert.tmp", ".a.b.c.ffffffffffffffff.renew-client-cert.tmp"]
    for name in [*kept, *left]:
        (tmp_path / name).write_bytes(b"")
    kept.append(".folder.0123456789abcdef.renew-client-cert.tmp")
    (tmp_path / kept[-1]).mkdir()
    remove_leftovers(tmp_path)
    assert names_in(tmp_path) == sorted(kept)


def test_missing_folder_has_no_leftovers(tmp_path):
    remove_leftovers(tmp_path / "missing")


def test_temporary_file_of_a_cut_is_known_as_a_leftover(tmp_path):
    subprocess.run([sys.executable, "-c", KILLED_WHILE_WRITING, str(tmp_path / "file")], check=False)
    assert len(names_in(tmp_path)) == 1
    remove_leftovers(tmp_path)
    assert names_in(tmp_path) == []


DURABLE = """
import sys
from pathlib import Path
from handler.device.storage import check_durable
check_durable(Path(sys.argv[1]))
"""


def test_file_system_that_makes_no_names_durable_is_refused_by_name(tmp_path):
    check_durable(tmp_path)
    strace = ["strace", "-qq", "-o", "/dev/null", "-e", "inject=fsync:error=EINVAL"]
    done = subprocess.run(
        [*strace, sys.executable, "-c", DURABLE, tmp_path], capture_output=True, text=True, check=False
    )
    kind = subprocess.check_output(["df", "--output=fstype", tmp_path], text=True).split()[-1]
    assert f"RequestRefusedError: {tmp_path} is on a file system (" in done.stderr
    assert f"({kind})" in done.stderr


def test_file_of_another_owner_is_replaceable_for_who_may_give_it_back(tmp_path):
    path = tmp_path / "sota.toml"
    assert why_irreplaceable(path) is None
    path.write_bytes(b"old")
    os.chown(path, NOBODY, 0)
    code = f"from handler.device.storage import *; print(why_irreplaceable(Path({str(path)!r})))"
    for owner, said in (((NOBODY, 0), "belongs to user 65534 and group 0, and"), ((0, NOBODY), "group 65534, and")):
        os.chown(path, *owner)
        assert why_irreplaceable(path) is None
        bounded = ["setpriv", "--bounding-set=-chown", sys.executable, "-c", code]
        found = subprocess.check_output(bounded, text=True)
        assert said in found
        assert "chown it to 0:0" in found
        os.chown(path, 0, 0)
        assert subprocess.check_output(bounded, text=True) == "None\n"


def test_folder_that_others_may_write_to_is_told_from_one_of_a_group(tmp_path):
    tmp_path.chmod(0o755)
    assert exposure(tmp_path) == []
    tmp_path.chmod(0o775)
    assert (exposure(tmp_path, group=False), len(exposure(tmp_path))) == ([], 1)
    tmp_path.chmod(0o777)
    assert "everybody may write" in exposure(tmp_path, group=False)[0]
    tmp_path.chmod(0o700)
    os.chown(tmp_path, NOBODY, NOBODY)
    assert "belongs to user 65534" in exposure(tmp_path, group=False)[0]
    assert len(exposure(tmp_path)) == 1


def test_neither_a_fifo_is_waited_for_nor_a_link_followed(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to("file")
    assert read_regular(tmp_path / "link", follow=True) == b"x"
    for name in ("fifo", "link"):
        with pytest.raises(OSError):
            read_regular(tmp_path / name)


def test_no_more_of_a_file_is_read_than_its_reader_can_use(tmp_path):
    (tmp_path / "sparse").touch()
    os.truncate(tmp_path / "sparse", 4 * MAX_BYTES)
    assert len(read_regular(tmp_path / "sparse")) == MAX_BYTES


def test_removing_can_be_repeated(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    remove(tmp_path / "file")
    remove(tmp_path / "file")
    assert names_in(tmp_path) == []
