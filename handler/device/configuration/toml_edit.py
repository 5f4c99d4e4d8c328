"""Setting texts in a TOML document while everything else stays as somebody wrote it: comments, order, line ends."""

import re
import tomllib
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

_LONE_LF = re.compile(r"(?<!\r)\n")


def set_values(text: str, values: Mapping[str, str]) -> str:
    """Give the document with those dotted keys (`import.tls_pkey_path`) set, in new tables where they are missing.

    Raises ValueError where that is not possible, or where anything else would change with it.
    """
    import tomlkit  # noqa: PLC0415 - costs 25 ms, and only who writes needs it
    from tomlkit.exceptions import TOMLKitError  # noqa: PLC0415

    expected = _parse(text)
    try:
        document = tomlkit.parse(text)
        for key, value in values.items():
            _set(document, key, value, tomlkit.table)
            _set(expected, key, value, dict)
        result = tomlkit.dumps(document)
    except (TOMLKitError, TypeError, NotImplementedError) as error:  # the last: tomlkit 0.12, of [[import]]
        raise ValueError(f"{', '.join(values)} cannot be set there: {error}") from error
    if "\r\n" in text and not _LONE_LF.search(text):
        result = _LONE_LF.sub("\r\n", result)
    try:
        faithful = _parse(result) == expected
    except tomllib.TOMLDecodeError:
        faithful = False
    if not faithful:
        raise ValueError(
            f"{', '.join(values)} cannot be set without changing other keys; write each table in one place"
        )
    return result


def _parse(text: str) -> dict[str, Any]:
    """Parse, with numbers as text: nan differs from itself."""
    return tomllib.loads(text, parse_float=str)


def _set(table: MutableMapping[str, Any], key: str, value: str, new_table: Callable[[], object]) -> None:
    *tables, name = key.split(".")
    for part in tables:
        if part not in table:
            table[part] = new_table()
        table = table[part]
    table[name] = value
