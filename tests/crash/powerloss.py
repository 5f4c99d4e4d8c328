"""The states in which a cut may leave folders, from what a process did to their files.

A kill leaves the files exactly as they are at that moment: `now`. After a power loss a file's content is durable after
its fsync, a name (made, renamed, removed) after the fsync of its folder. Of the rest a power loss keeps whatever it
likes; two cases stand for all:

* `lost`: nothing that was not made durable is there; names that were not are as they were.
* `torn`: all names are there, but of content that was not made durable only the first half.

The files of a token are taken as they are at that moment in both: a power loss there is the module's business.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(eq=False)
class Inode:
    """A file's content, how much of it is durable, and where the next write goes."""

    data: bytearray = field(default_factory=bytearray)
    durable: bytes = b""
    position: int = 0
    appended: bool = False

    def torn(self):
        """Give the content with half of what is not durable: of what was appended, or of all that was rewritten."""
        kept = len(self.durable) if self.data.startswith(self.durable) else 0
        return self.data[: kept + (len(self.data) - kept) // 2]


@dataclass(frozen=True)
class Saved:
    """A file: content, mode, modification time (ns since 1970; None: whenever it is written)."""

    content: bytes
    mode: int = 0o600
    mtime_ns: int | None = None


@dataclass(frozen=True)
class Files:
    """All that is below some folders."""

    folders: frozenset[str]
    files: dict[str, Saved]


class ReplayError(Exception):
    """What was played does not end in what is there."""


def snapshot(tops):
    """Save everything below those folders."""
    found = [path for top in tops for path in Path(top).rglob("*")]
    files = {}
    for path in found:
        if path.is_file():
            status = path.stat()
            files[str(path)] = Saved(path.read_bytes(), status.st_mode, status.st_mtime_ns)
    return Files(frozenset(str(path) for path in found if path.is_dir()), files)


def put(tops, state):
    """Bring what is below those folders into that state."""
    for path in sorted((path for top in tops for path in Path(top).rglob("*")), reverse=True):
        if path.is_dir():
            if str(path) not in state.folders:
                path.rmdir()
        elif str(path) not in state.files:
            path.unlink()
    for folder in sorted(state.folders):
        Path(folder).mkdir(mode=0o700, exist_ok=True)
    for name, saved in state.files.items():
        path = Path(name)
        if not path.exists() or path.read_bytes() != saved.content:
            path.write_bytes(saved.content)
        path.chmod(saved.mode)
        if saved.mtime_ns is not None:
            os.utime(path, ns=(saved.mtime_ns, saved.mtime_ns))


class Disk:
    """Folders whose every change is played to them, from the state `before` (all durable).

    `storage` is the one whose changes have to be made durable; those of `others` are so at once.
    """

    def __init__(self, storage, others, before):
        self._storage = str(storage)
        self._tops = [self._storage, *map(str, others)]
        self._before = before.files
        self._names = {path: Inode(bytearray(saved.content), saved.content) for path, saved in before.files.items()}
        self._durable = dict(self._names)
        self._folders = {*self._tops, *before.folders}
        self._durable_folders = set(self._folders)

    def play(self, call):
        """Play a recorded call, if it did anything here."""
        if call.done and any(path.startswith(f"{top}/") or path == top for path in call.paths for top in self._tops):
            getattr(self, f"_{call.name}", self._other)(call)

    def now(self):
        """Give the state that the running system sees, and a kill leaves."""
        return self._files(self._folders, {path: bytes(inode.data) for path, inode in self._names.items()})

    def lost(self):
        """Give the state with everything gone that was not durable."""
        left = {path: inode.durable for path, inode in self._durable.items() if not self._is_other(path)}
        left |= {path: bytes(inode.data) for path, inode in self._names.items() if self._is_other(path)}
        return self._files(
            self._durable_folders,
            {path: content for path, content in left.items() if str(Path(path).parent) in self._durable_folders},
        )

    def torn(self):
        """Give the state with all names, and half of what was not durable."""
        left = {}
        for path, inode in self._names.items():
            left[path] = bytes(inode.data if self._is_other(path) else inode.torn())
        return self._files(self._folders, left)

    def check(self):
        """Raise ReplayError unless the folders are as they were played."""
        played, real = self.now(), snapshot(self._tops)
        contents = {path: saved.content for path, saved in real.files.items()}
        expected = {path: saved.content for path, saved in played.files.items()}
        different = sorted(path for path in contents.keys() | expected if contents.get(path) != expected.get(path))
        if different or real.folders != played.folders:
            raise ReplayError(f"replayed otherwise: {different or real.folders ^ played.folders}")

    def _files(self, folders, contents):
        files = {}
        for path, content in contents.items():
            saved = self._before.get(path, Saved(b""))
            files[path] = saved if saved.content == content else Saved(content, saved.mode)
        return Files(frozenset(folders) - set(self._tops), files)

    def _is_other(self, path):
        return not path.startswith(f"{self._storage}/")

    def _openat(self, call):
        path = call.paths[-1]
        if path in self._folders:
            return
        if path not in self._names:
            if "O_CREAT" not in call.arguments:
                return
            self._names[path] = Inode()
        inode = self._names[path]
        inode.position, inode.appended = 0, "O_APPEND" in call.arguments
        if "O_TRUNC" in call.arguments:
            inode.data.clear()

    def _write(self, call):
        inode = self._names.get(call.paths[0])
        if inode is not None:
            start = len(inode.data) if inode.appended else inode.position
            inode.data[start : start + len(call.data)] = call.data
            inode.position = start + len(call.data)

    def _ftruncate(self, call):
        inode = self._names.get(call.paths[0])
        if inode is not None:
            del inode.data[int(call.arguments.rpartition(",")[2].strip(" )")) :]
            inode.position = min(inode.position, len(inode.data))

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
