"""Sets texts in a TOML file and leaves every other byte alone."""

import copy
import json
import re
import tomllib
from collections.abc import Mapping

from .toml_text import Entry, Header, TomlText

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def set_values(text: str, values: Mapping[str, str]) -> str:
    """Return the text with those dotted keys (`import.tls_pkey_path`) set, if necessary in a new table.

    Raises ValueError if that is impossible, would change anything else, or fioconfig could not read the result.
    """
    expected, was_toml = copy.deepcopy(TomlText(text).values()), _is_toml(text)
    for key, value in values.items():
        *tables, name = key.split(".")
        table = expected
        for part in tables:
            table = table.setdefault(part, {})
            if not isinstance(table, dict):
                raise ValueError(f"{key} cannot be set there: {part} is not a table")  # noqa: TRY004
        table[name] = value
        text = _with(TomlText(text), (*tables, name), value)
    result = TomlText(text)
    if stops := result.stops():
        raise ValueError(stops)
    try:
        faithful = result.values() == expected and (_is_toml(text) or not was_toml)
    except ValueError:
        faithful = False
    if not faithful:
        raise ValueError(
            f"{', '.join(values)} cannot be set without changing other keys; write each table in one place"
        )
    return text


def _is_toml(text: str) -> bool:
    try:
        tomllib.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _with(toml: TomlText, path: tuple[str, ...], value: str) -> str:  # noqa: PLR0911 - one for each layout
    """Replace the value, or add it after another of its table, below its header, or in a new table."""
    text, quoted = toml.text, json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    for each in toml.entries:
        if each.path == path:
            return text[: each.start] + quoted + text[each.end :]
        if each.path == path[:-1] and text[each.start] == "{" and not _beside(toml, path):
            return text[: each.start + 1] + f" {_spelled(path[-1:])} = {quoted} " + text[each.start + 1 :]
    if beside := _beside(toml, path):
        assignment = f"{_spelled(path[beside.above :])} = {quoted}"
        if beside.inline:
            return text[: beside.end] + f", {assignment}" + text[beside.end :]
        begin = text.rfind("\n", 0, beside.at) + 1
        indent = text[begin : beside.at] if text[begin : beside.at].isspace() else ""
        # Below a value without quotes fioconfig reads no other.
        return _with_line(text, beside.at - len(indent) if beside.bare else beside.end, indent + assignment)
    assignment = f"{_spelled(path[-1:])} = {quoted}"
    for item in toml.items:
        if isinstance(item, Header) and item.path == path[:-1] and not item.array:
            return _with_line(text, item.end, assignment)
    end = _line_end(text)
    table = f"[{_spelled(path[:-1])}]{end}{assignment}{end}"
    if not text.strip("\ufeff"):
        return text + table
    return text + ("" if text.endswith("\n") else end) + end + table


def _beside(toml: TomlText, path: tuple[str, ...]) -> Entry | None:
    """Return the last entry of the same table with quotes, else the first without."""
    found = [each for each in toml.entries if each.path[:-1] == path[:-1]]
    return next((each for each in reversed(found) if not each.bare), found[0] if found else None)


def _with_line(text: str, at: int, line: str) -> str:
    """Insert a line at the start of a line, else below the line of `at`."""
    end = _line_end(text)
    if at and text[at - 1] != "\n":
        at = text.find("\n", at) + 1
        if not at:
            return text + end + line + end
    return text[:at] + line + end + text[at:]


def _line_end(text: str) -> str:
    return "\r\n" if "\r\n" in text and not re.search(r"(?<!\r)\n", text) else "\n"


def _spelled(parts: tuple[str, ...]) -> str:
    return ".".join(part if _BARE_KEY.fullmatch(part) else json.dumps(part, ensure_ascii=False) for part in parts)
