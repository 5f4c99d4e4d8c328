"""The states in which a power loss may leave a folder, from what a process did to it.

A file's content is durable after its fsync, a name (made, renamed, removed) after the fsync of its folder. Of the
rest a power loss keeps whatever it likes; two cases stand for all:

* `lost`: nothing that was not made durable is there; names that were not are as they were.
* `torn`: all names are there, but of content that was not made durable only the first half.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(eq=False)
class Inode:
    """A file's content, and how much of it is durable."""

    data: bytearray = field(default_factory=bytearray)
    durable: bytes = b""


@dataclass(frozen=True)
class Saved:
    """A file before the run: content, mode, modification time (ns)."""

    content: bytes
    mode: int
    mtime_ns: int


def snapshot(folder):
    """Save every file below the folder."""
    saved = {}
    for path in sorted(Path(folder).rglob("*")):
        if path.is_file():
            status = path.stat()
            saved[str(path)] = Saved(path.read_bytes(), status.st_mode, status.st_mtime_ns)
    return saved


class Disk:
    """A folder whose every change is played to it, from the state `before` it (all durable)."""

    def __init__(self, folder, before):
        self._folder = str(folder)
        self._before = before
        self._names = {path: Inode(bytearray(saved.content), saved.content) for path, saved in before.items()}
        self._durable = dict(self._names)
        folders = {self._folder, *(str(path) for path in Path(folder).rglob("*") if path.is_dir())}
        self._durable_folders = {each for each in folders if any(path.startswith(each + "/") for path in before)}
        self._durable_folders.add(self._folder)
        self._folders = set(self._durable_folders)

    def play(self, calls):
        """Play recorded calls."""
        for call in calls:
            if call.done and call.changes([self._folder], ()):
                getattr(self, f"_{call.name}", self._other)(call)

    def lost(self):
        """Give the files (path to content) with everything gone that was not durable."""
        return {
            path: inode.durable
            for path, inode in self._durable.items()
            if str(Path(path).parent) in self._durable_folders
        }

    def torn(self):
        """Give the files with all names, and half of what was not durable."""
        return {
            path: bytes(inode.data) if inode.durable == inode.data else bytes(inode.data[: len(inode.data) // 2])
            for path, inode in self._names.items()
        }

    def now(self):
        """Give the files as the running system sees them."""
        return {path: bytes(inode.data) for path, inode in self._names.items()}

    def put(self, files):
        """Bring the real folder into one of these states."""
        for path in sorted(Path(self._folder).rglob("*")):
            if path.is_file() and str(path) not in files:
                path.unlink()
        for name, content in files.items():
            path = Path(name)
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if path.exists() and path.read_bytes() == content:
                continue
            path.write_bytes(content)
            saved = self._before.get(name)
            path.chmod(saved.mode if saved else 0o600)
            if saved is not None and saved.content == content:
                os.utime(path, ns=(saved.mtime_ns, saved.mtime_ns))

    def _openat(self, call):
        path = call.paths[-1]
        if path not in self._names:
            self._names[path] = Inode()
        elif "O_TRUNC" in call.arguments:
            self._names[path].data.clear()

    def _write(self, call):
        if call.paths[0] in self._names:
            self._names[call.paths[0]].data += call.data

    def _rename(self, call):
        old, new = call.paths[-2:]
        self._names[new] = self._names.pop(old)

    _renameat = _renameat2 = _rename

    def _unlink(self, call):
        self._names.pop(call.paths[-1], None)

    _unlinkat = _unlink

    def _mkdir(self, call):
        self._folders.add(call.paths[-1])

    _mkdirat = _mkdir

    def _fsync(self, call):
        path = call.paths[0]
        if path in self._folders:
            inside = {name: inode for name, inode in self._names.items() if str(Path(name).parent) == path}
            outside = {name: inode for name, inode in self._durable.items() if str(Path(name).parent) != path}
            self._durable = outside | inside
            self._durable_folders |= {each for each in self._folders if str(Path(each).parent) == path}
        elif path in self._names:
            self._names[path].durable = bytes(self._names[path].data)

    _fdatasync = _fsync

    def _other(self, call):
        """Modes, owners, times and locks: nothing that a recovery reads."""
