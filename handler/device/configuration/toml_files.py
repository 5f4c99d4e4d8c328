"""The device's TOML configuration (sota.toml and its neighbours), merged, and its update.

* All `*.toml` files of the search paths count, keyed by base name: a later search path overrides an earlier one.
* The alphabetically last file that has a value as a text wins; empty texts do not count, as in fioconfig.
* A file that cannot be read may hold any value: only what more significant files say is certain.
* An update goes into the most significant file that has any of the keys; if it cannot be written, into the next more
  significant one that can, so that nothing overrides it. `z-50-fioctl.toml` is managed remotely and never written. All
  keys change in one atomic replacement; every other byte stays.
"""

import errno
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from handler.device.storage import NotRegularError, atomic_write, is_same_file, read_regular, why_irreplaceable
from handler.errors import RequestRefusedError

from .toml_edit import set_values
from .toml_text import MAX_CHARACTERS, TomlText

DEFAULT_SEARCH_PATHS = ("/usr/lib/sota/conf.d", "/var/sota/sota.toml", "/etc/sota/conf.d/")
REMOTE = "z-50-fioctl.toml"
_MISSING = object()
_NO_TEXT = re.compile(r"[\0\ud800-\udfff]")


class UnreadError(RequestRefusedError):
    """A file that cannot be read may override a value."""

    def __init__(self, problem: str, *keys: str) -> None:
        """Keep why the file cannot be read."""
        super().__init__(f"{problem}; until it can be read, it may override {', '.join(keys)}")
        self.problem = problem


@dataclass(frozen=True)
class TomlFile:
    """A parsed file of the configuration, or a folder that cannot be read."""

    path: Path
    values: Mapping[str, Any] = field(default_factory=dict, repr=False)
    problem: str | None = None
    """Why it cannot be read."""
    odd: tuple[str, ...] = ()
    """Warnings: it is read, but its author should correct it."""

    @classmethod
    def read(cls, path: Path) -> "TomlFile":
        """Read a file; `problem` has the reason if that fails."""
        try:
            return _parsed(path, _read(path))
        except RequestRefusedError as error:
            return cls(path, problem=str(error))

    def find(self, key: str) -> object:
        """Return the value of a dotted key, `_MISSING` if the file does not have it. Raises RequestRefusedError."""
        if self.problem is not None:
            raise UnreadError(self.problem, key)
        value: object = self.values
        for part in key.split("."):
            if not isinstance(value, dict) or part not in value:
                return _MISSING
            value = value[part]
        return value

    def text(self, key: str) -> str:
        """Return the text of a dotted key, empty if the file does not have it. Raises RequestRefusedError."""
        value = self.find(key)
        if value is _MISSING:
            return ""
        if not isinstance(value, str):
            raise RequestRefusedError(f"{self.path}: {key} is not a text: expected one in quotes")
        if _NO_TEXT.search(value):
            raise RequestRefusedError(f"{self.path}: {key} is not UTF-8, or holds a NUL: correct it")
        return value

    def obstacle(self) -> str | None:
        """Return why an update cannot replace the file; None if one can. Raises OSError."""
        if self.path.name == REMOTE:
            return f"{self.path} is managed remotely"
        target = self.path.resolve()
        if not target.is_file():
            return f"{self.path} is masked, or no file"
        return why_irreplaceable(target)


@lru_cache(maxsize=16)
def _parsed(path: Path, text: str) -> TomlFile:
    """Parse a text; a rotation reads the same files dozens of times."""
    try:
        toml = TomlText(text)
        values = toml.values()
    except ValueError as error:
        return TomlFile(path, problem=f"{path} is not TOML: {error}")
    stops = toml.stops()
    return TomlFile(path, values, odd=tuple(f"{path}, {each}" for each in (*toml.odd(), *([stops] if stops else ()))))


class SotaConfig:
    """The merged configuration; `files` are parsed, the most significant one first."""

    def __init__(self, paths: Sequence[Path], files: Sequence[TomlFile]) -> None:
        self._paths = tuple(paths)
        self.files = tuple(files)

    @classmethod
    def load(cls, paths: Sequence[Path]) -> "SotaConfig":
        """Read all files of the search paths (files, or folders of `*.toml`); missing ones are ignored."""
        found: dict[str, Path] = {}
        unread = []
        for path in paths:
            try:
                found.update({file.name: file for file in _toml_files(path)})
            except OSError as error:  # a file in it may have any name
                unread.append(TomlFile(path, problem=f"{path} cannot be read: {error.strerror}; run this as root"))
        return cls(paths, [*unread, *(TomlFile.read(found[name]) for name in sorted(found, reverse=True))])

    @property
    def problems(self) -> list[str]:
        """Why files cannot be read."""
        return [file.problem for file in self.files if file.problem is not None]

    @property
    def odd(self) -> list[str]:
        """The files' warnings."""
        return [each for file in self.files for each in file.odd]

    def get(self, key: str, default: str | None = None) -> str | None:
        """Return the text of a dotted key such as `tls.server`. Raises RequestRefusedError if it is not a text."""
        return next((text for file in self.files if (text := file.text(key))), default)

    def require(self, key: str) -> str:
        """Return the text of a dotted key. Raises RequestRefusedError if no file has it."""
        value = self.get(key)
        if value is None:
            raise RequestRefusedError(self.not_set(key))
        return value

    def not_set(self, *keys: str) -> str:
        """Return the message that no file has the keys, with the files that may, but no remotely managed one."""
        places = [str(file.path) for file in reversed(self.files) if file.path.name != REMOTE]
        places += [f"{path} (not there)" for path in self._paths if not path.exists()]
        places = places or [str(path) for path in self._paths] or ["the TOML files"]
        verb, them = ("is", "it") if len(keys) == 1 else ("are", "them")
        return f"{', '.join(keys)} {verb} not set: expected {them} in one of {', '.join(places)}"

    def origin(self, key: str) -> Path | None:
        """Return the file that the value of the key comes from."""
        return next((file.path for file in self.files if file.text(key)), None)

    def check_writable(self, keys: Sequence[str]) -> Path:
        """Return the file that an update of the keys goes into. Raises RequestRefusedError if it cannot be edited."""
        file = self._target(keys)
        _edited(file, dict.fromkeys(keys, ""))
        return file.path

    def update(self, values: Mapping[str, str]) -> Path:
        """Set the keys, all in one atomic replacement of one file, which is returned.

        The files are read again first; nothing is written if the keys have those values already. Raises
        RequestRefusedError, OSError.
        """
        self._reload()
        if all(self.get(key) == value for key, value in values.items()):
            return self._holder(values).path
        file = self._target(values)
        atomic_write(file.path, _edited(file, values))
        self._reload()
        for key, value in values.items():
            if self.get(key) != value:
                raise RequestRefusedError(
                    f"{key} still has another value after it was written to {file.path}: {self.origin(key)} "
                    "was changed meanwhile; check that file"
                )
        return file.path

    def _reload(self) -> None:
        self.files = SotaConfig.load(self._paths).files

    def _holder(self, keys: Iterable[str]) -> TomlFile:
        for file in self.files:
            if any(file.find(key) is not _MISSING for key in keys):
                return file
        raise RequestRefusedError(f"none of the TOML files has {' or '.join(keys)}: expected them in sota.toml")

    def _target(self, keys: Iterable[str]) -> TomlFile:
        upward = self.files[self.files.index(self._holder(keys)) :: -1]
        obstacles: list[str] = []
        for file in upward:
            if (obstacle := file.obstacle()) is None:
                return file
            obstacles.append(obstacle)
        raise RequestRefusedError(f"{' and '.join(keys)} cannot be changed: {'; '.join(obstacles)}")


def _toml_files(path: Path) -> list[Path]:
    """List the files that a search path stands for. Raises OSError."""
    if not _is_there(path):
        return []
    if not path.is_dir():
        return [path]
    return [file for file in path.iterdir() if file.suffix == ".toml" and _is_there(file) and not file.is_dir()]


def _is_there(path: Path) -> bool:
    """Return whether the path leads to anything. Raises OSError (which Path.exists does in some versions of Python)."""
    try:
        path.stat()
    except OSError as error:
        if error.errno not in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}:
            raise
        return error.errno == errno.ELOOP
    return True


def _read(path: Path) -> str:
    """Read the text, its line ends as they are, and bytes that are not UTF-8 as PEP 383 has it."""
    try:
        return read_regular(path, 4 * MAX_CHARACTERS + 4, follow=True).decode("utf-8", "surrogateescape")
    except NotRegularError as error:
        if is_same_file(str(path), os.devnull):  # masked, as a unit of systemd: every reader finds an empty file
            return ""
        raise RequestRefusedError(f"{path} is not a file; remove it") from error
    except OSError as error:
        raise RequestRefusedError(f"{path} cannot be read: {error.strerror}; run this as root") from error


def _edited(file: TomlFile, values: Mapping[str, str]) -> bytes:
    try:
        return set_values(_read(file.path), values).encode("utf-8", "surrogateescape")
    except ValueError as error:
        raise RequestRefusedError(f"{file.path}: {error}") from error
