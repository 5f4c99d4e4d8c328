"""What the console can show: its width, its characters and its colours."""

import codecs
import io
import os
import re
from collections.abc import Mapping
from typing import NamedTuple, TextIO

USUAL_WIDTH = 80
_RESET = "\033[0m"
_COLOURS = {"ok": "\033[32m", "warning": "\033[33m", "problem": "\033[1;31m"}


class Console(NamedTuple):
    """`width` is None if lines may have any length (a file, a pipe)."""

    width: int | None = None
    colours: bool = False
    ascii: bool = False
    """Whether the locale is C, which Python takes for UTF-8 (PEP 540)."""

    @classmethod
    def of(cls, stream: TextIO, environment: Mapping[str, str] = os.environ) -> "Console":
        """Examine a stream. A serial console of unknown size counts as 80 columns wide."""
        plain = _locale(environment) in {"C", "POSIX"} and not environment.get("PYTHONIOENCODING")
        if not stream.isatty():
            return cls(ascii=plain)
        colours = not environment.get("NO_COLOR") and environment.get("TERM", "dumb") != "dumb"
        return cls(_columns(stream, environment.get("COLUMNS", "")), colours, plain)

    def coloured(self, word: str, padded: str) -> str:
        """Return the padded word, in the colour of `word` if this console has colours."""
        colour = _COLOURS.get(word) if self.colours else None
        return f"{colour}{padded}{_RESET}" if colour else padded


def escape(stream: TextIO, environment: Mapping[str, str] = os.environ) -> None:
    """Make the stream escape what its console cannot show."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(encoding="ascii" if Console.of(stream, environment).ascii else None, errors=_ESCAPED)


def _locale(environment: Mapping[str, str]) -> str:
    """Return the locale of the environment, without the LC_CTYPE that Python itself sets in a C locale (PEP 538)."""
    coerced = environment.get("LC_CTYPE") in {"C.UTF-8", "C.utf8", "UTF-8"}
    names = ("LC_ALL", "LANG") if coerced else ("LC_ALL", "LC_CTYPE", "LANG")
    return next(filter(None, map(environment.get, names)), "C")


def _columns(stream: TextIO, told: str) -> int:
    """Return the width of a terminal: from COLUMNS, from the terminal, or 80."""
    if re.fullmatch("[1-9][0-9]{0,4}", told):
        return int(told)
    try:
        return os.get_terminal_size(stream.fileno()).columns or USUAL_WIDTH
    except OSError:
        return USUAL_WIDTH


def _escape(error: UnicodeError) -> tuple[str | bytes, int]:
    """Return the replacement of a character that cannot be shown (codecs.register_error)."""
    if isinstance(error, UnicodeEncodeError):
        error.end = error.start + 1
        if error.object[error.start] == "\N{HORIZONTAL ELLIPSIS}":
            return "...", error.end
    return codecs.backslashreplace_errors(error)


_ESCAPED = "renew-client-cert.escaped"
codecs.register_error(_ESCAPED, _escape)
