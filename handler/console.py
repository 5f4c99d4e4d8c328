"""What the place is like that output goes to: its width, its characters, and whether it shows colours."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TextIO

_RESET = "\033[0m"
_COLOURS = {"ok": "\033[32m", "warning": "\033[33m", "problem": "\033[1;31m"}


@dataclass(frozen=True)
class Console:
    """`width` is None where lines may be of any length (a file, a pipe)."""

    width: int | None = None
    colours: bool = False
    ascii: bool = False
    """Whether it is told so by the locale C, which Python takes for UTF-8 (PEP 540); a stream that is ASCII knows."""

    @classmethod
    def of(cls, stream: TextIO, environment: Mapping[str, str]) -> "Console":
        """Look at a stream. A serial console that does not know its size counts as 80 columns wide."""
        locale = next(filter(None, map(environment.get, ("LC_ALL", "LC_CTYPE", "LANG"))), "C")
        plain = locale in {"C", "POSIX"} and not environment.get("PYTHONIOENCODING")
        if not stream.isatty():
            return cls(ascii=plain)
        colours = not environment.get("NO_COLOR") and environment.get("TERM", "dumb") != "dumb"
        return cls(shutil.get_terminal_size().columns, colours, plain)

    def shown(self, line: str) -> str:
        """Give a line as this console can show it."""
        return line.encode("ascii", "backslashreplace").decode("ascii") if self.ascii else line

    def coloured(self, word: str, padded: str) -> str:
        """Give the padded word in the colour of what it says, where this console has colours."""
        colour = _COLOURS.get(word) if self.colours else None
        return f"{colour}{padded}{_RESET}" if colour else padded
