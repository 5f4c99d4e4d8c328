"""The text of a TOML file as fioconfig and aktualizr read it: unlike TOML, with values without quotes.

* A value that is invalid in TOML is the text to the end of its line, a comment included. aktualizr reads INI; fioconfig
  reads with go-toml 1.8, changed for such values.
* After such a value fioconfig's reader accepts only an empty line or a comment. `stops` says where it refuses the whole
  file; then it never calls a handler.
* Bytes that are not UTF-8 are surrogates here (PEP 383), so that they can be written back unchanged.
* Sizes and depths are limited before parsing: some of these files are managed remotely.
"""

import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

MAX_CHARACTERS = 256 * 1024
MAX_DEPTH = 32
"""Of parts of a key with its table's, and of nested brackets."""
_UNUSABLE = object()
_PART = r"""(?:[A-Za-z0-9_-]+|"(?:\\.|[^"\\\n])*"|'[^'\n]*')"""
_DOTTED = rf"(?P<key>{_PART}(?:[ \t]*\.[ \t]*{_PART})*)[ \t]*"
_HEADER = re.compile(rf"\[(?P<array>\[)?[ \t]*{_DOTTED}\](?(array)\])")
_KEY = re.compile(rf"{_DOTTED}=[ \t]*")
_GAP = re.compile(r"(?:[ \t\r\n]+|[#;][^\n]*)*")
_REST = re.compile(r"[ \t]*(?:#[^\n]*)?\r?(?=\n|\Z)")
_STRING = re.compile(
    r"""\"{3}(?:\\.|[^\\])*?"{3,5}(?!")|'{3}.*?'{3,5}(?!')|"(?!"")(?:\\.|[^"\\\n])*"|'(?!'')[^'\n]*'""", re.DOTALL
)
_SCALAR = re.compile(r"\d{4}-\d\d-\d\d \d\d:[^\s,#\]}]+|[^\s,#\]}]+")
# Outside a string an escaped quotation mark begins none: each would be looked for its end in vain.
_IN_BRACKETS = re.compile(rf"{_STRING.pattern}|\\\"|#[^\n]*|[\[{{]|[\]}}]|[^\[\]{{}}\"'#\\]+", re.DOTALL)
_ESCAPE = r"\\(?:[btnfr\"\\/]|u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8})"
_TAKEN_BY_FIOCONFIG = re.compile(
    rf"""(?!true|false|inf|nan|[-+0-9.=,#\[\]{{}}"'])(?:{_ESCAPE}|[^\x00-\x08\x0a-\x1f\\])+|[+-]?[0-9]{{1,18}}"""
)


class Header(NamedTuple):
    """`[a.b]`, or `[[a.b]]` if `array`, and where it ends."""

    path: tuple[str, ...]
    array: bool
    end: int


@dataclass(frozen=True)
class Entry:
    """A key with its value. `path` begins with the `above` parts of its table."""

    path: tuple[str, ...]
    above: int
    at: int
    """Where the key begins; the value is text[start:end]."""
    start: int
    end: int
    value: Any = field(repr=False)
    bare: bool = False
    """Whether the value is invalid in TOML."""
    inline: bool = False


class TomlText:
    """A scanned text. Raises ValueError naming the line if neither fioconfig nor aktualizr can read it."""

    def __init__(self, text: str) -> None:
        if len(text) > MAX_CHARACTERS:
            raise ValueError(f"it has more than {MAX_CHARACTERS} characters")
        self.text = text
        self._semicolon: int | None = None
        self.items: Sequence[Header | Entry] = tuple(self._scan())

    @property
    def entries(self) -> list[Entry]:
        """All keys with values, those of inline tables after their table."""
        return [item for item in self.items if isinstance(item, Entry)]

    def line(self, at: int) -> int:
        """Return the number of the line, counted from 1."""
        return self.text.count("\n", 0, at) + 1

    def values(self) -> dict[str, Any]:
        """Return tables, keys and values; floats as bytes (nan differs from itself). Raises ValueError for doubles."""
        root: dict[str, Any] = {}
        seen: set[int] = set()
        for item in self.items:
            if isinstance(item, Entry):
                if item.path[-1] in (table := _table(root, item.path[:-1])):
                    raise ValueError(f"line {self.line(item.at)}: {'.'.join(item.path)} is there twice")
                table[item.path[-1]] = {} if item.value == {} else item.value  # one of its own, to be filled
            elif item.array:
                array = _table(root, item.path[:-1]).setdefault(item.path[-1], [])
                if not isinstance(array, list):
                    raise ValueError(f"line {self.line(item.end)}: {'.'.join(item.path)} is not an array")  # noqa: TRY004
                array.append({})
            elif (found := id(_table(root, item.path))) in seen:
                raise ValueError(f"line {self.line(item.end)}: table {'.'.join(item.path)} is there twice")
            else:
                seen.add(found)
        return root

    def odd(self) -> list[str]:
        """Return warnings of values without quotes."""
        return [
            f"line {self.line(each.at)}: the value of {'.'.join(each.path)} has no quotes, so it is the text to the "
            "end of the line; put it in quotes"
            for each in self.entries
            if each.bare
        ]

    def stops(self) -> str | None:
        """Return where and why fioconfig's reader refuses the file; None if it does not."""
        if self._semicolon is not None:
            return f"line {self.line(self._semicolon)}: fioconfig does not know comments that begin with a semicolon"
        for each in self.entries:
            if not each.bare:
                continue
            name, line = ".".join(each.path), self.line(each.at)
            if not _TAKEN_BY_FIOCONFIG.fullmatch(self.text, each.start, each.end):
                return f"line {line}: fioconfig cannot read the value of {name}; put it in quotes"
            if not isinstance(each.value, str):
                continue
            if self.text[each.end : each.end + 1] != "\n":
                return f"line {line}: fioconfig needs a line feed right after the value of {name}; put it in quotes"
            if not _REST.match(self.text, each.end + 1):
                return (
                    f"line {line + 1}: fioconfig cannot read a line right below a value without quotes ({name}); put "
                    "that value in quotes"
                )
        return None

    def _scan(self) -> Iterator[Header | Entry]:
        table: tuple[str, ...] = ()
        at = self._gap(int(self.text.startswith("\ufeff")))
        while at < len(self.text):
            if match := _HEADER.match(self.text, at):
                table = self._path(match)
                yield Header(table, match["array"] is not None, match.end())
                at = match.end()
            else:
                entries = self._entry(at, table)
                yield from entries
                at = entries[0].end
            at = self._gap(at)

    def _gap(self, at: int) -> int:
        match = _GAP.match(self.text, at)
        assert match is not None  # noqa: S101 - it matches nothing too
        semicolon = re.search(r"^[ \t]*;", match[0], re.MULTILINE)
        if semicolon and self._semicolon is None:
            self._semicolon = at + semicolon.end()
        return match.end()

    def _path(self, match: re.Match[str], above: tuple[str, ...] = ()) -> tuple[str, ...]:
        parts = [part if part[0] not in "\"'" else _evaluated(part) for part in re.findall(_PART, match["key"])]
        if len(above) + len(parts) > MAX_DEPTH or not all(isinstance(part, str) for part in parts):
            raise ValueError(f"line {self.line(match.start())}: expected a key of at most {MAX_DEPTH} parts")
        return (*above, *parts)

    def _entry(self, at: int, above: tuple[str, ...], *, inline: bool = False) -> list[Entry]:
        """Read a key with its value, and the entries of its inline table."""
        match = _KEY.match(self.text, at)
        if match is None:
            raise ValueError(f"line {self.line(at)}: expected a table, or a key with a value")
        path, start = self._path(match, above), match.end()
        if self.text.startswith("{", start):
            inner, end = self._inline_table(start, path)
            return [Entry(path, len(above), at, start, end, {}, inline=inline), *inner]
        end = self._end(start)
        if inline or _REST.match(self.text, end):
            value = _evaluated(self.text[start:end])
            if value is not _UNUSABLE:
                return [Entry(path, len(above), at, start, end, value, inline=inline)]
        end = self.text.find("\n", start)
        bare = self.text[start : end if end >= 0 else None].removesuffix("\r")
        if inline or bare[:1] in {'"', "'", "{"} or "\n" in self.text[start : self._end(start)]:
            raise ValueError(f"line {self.line(start)}: the value of {'.'.join(path)} cannot be read")
        number = re.fullmatch("[+-]?[0-9]{1,18}", bare)
        value = int(bare) if number else re.sub(_ESCAPE, lambda escape: str(_evaluated(f'"{escape[0]}"')), bare)
        return [Entry(path, len(above), at, start, start + len(bare), value, bare=True)]

    def _inline_table(self, start: int, path: tuple[str, ...]) -> tuple[list[Entry], int]:
        entries: list[Entry] = []
        at = self._gap(start + 1)
        while not self.text.startswith("}", at):
            found = self._entry(at, path, inline=True)
            entries += found
            at = self._gap(found[0].end)
            if self.text.startswith(",", at):
                at = self._gap(at + 1)
            elif not self.text.startswith("}", at):
                raise ValueError(f"line {self.line(at)}: expected the end of inline table {'.'.join(path)}")
        return entries, at + 1

    def _end(self, start: int) -> int:
        """Return the end of a TOML value; `start` if there is none."""
        if self.text.startswith("[", start):
            return self._end_of_array(start)
        match = _STRING.match(self.text, start) or (
            None if self.text[start : start + 1] in {'"', "'"} else _SCALAR.match(self.text, start)
        )
        return match.end() if match else start

    def _end_of_array(self, start: int) -> int:
        depth = 0
        for match in _IN_BRACKETS.finditer(self.text, start):
            depth += (match[0] in {"[", "{"}) - (match[0] in {"]", "}"})
            if depth > MAX_DEPTH:
                break
            if depth == 0:
                return match.end()
        raise ValueError(f"line {self.line(start)}: expected an array's end, and at most {MAX_DEPTH} in each other")


def _table(root: dict[str, Any], path: Sequence[str]) -> dict[str, Any]:
    """Find or make a table. Raises ValueError."""
    table: Any = root
    for part in path:
        table = table.setdefault(part, {})
        if isinstance(table, list) and table:
            table = table[-1]
        if not isinstance(table, dict):
            raise ValueError(f"{'.'.join(path)} is not a table")  # noqa: TRY004 - the text is wrong
    found: dict[str, Any] = table
    return found


def _evaluated(text: str) -> Any:  # noqa: ANN401 - whatever TOML has
    """Return a TOML value, `_UNUSABLE` if it is invalid. Only fioconfig knows an escaped slash."""
    text = re.sub(r"(\\[^/])|\\/", lambda escape: escape[1] or "/", text, flags=re.DOTALL)
    try:
        return tomllib.loads(f"x = {text}", parse_float=str.encode)["x"]
    except (ValueError, RecursionError):  # an integer of 5,000 digits is a plain ValueError
        return _UNUSABLE
