"""Plain text in columns, for a console of any width.

Text from outside, such as the label of a token's object, is made harmless first: it must not control the console.
"""

import textwrap
import unicodedata
from collections.abc import Iterator, Sequence
from datetime import timedelta

from handler.errors import harmless

GAP = "  "
_NARROWEST = 6


def columns(header: Sequence[str], rows: Sequence[Sequence[str]], width: int | None = None) -> Iterator[str]:
    """Yield the lines of a table; if it is wider than `width` columns, cells of the widest columns are folded.

    `width` None: no limit.
    """
    lines = [[harmless(cell) for cell in line] for line in (header, *rows)]
    widths = [max(_columns_of(line[number]) for line in lines) for number in range(len(header))]
    if width is not None:
        _shrink(widths, width - len(GAP) * (len(widths) - 1))
    for line in lines:
        parts = [folded(cell, room) for cell, room in zip(line, widths, strict=True)]
        for number in range(max(map(len, parts))):
            cells = [cell[number] if number < len(cell) else "" for cell in parts]
            yield GAP.join(map(_padded, cells, widths)).rstrip()


def hanging(first: str, text: str, width: int | None = None, indent: int | None = None) -> Iterator[str]:
    """Yield `first` and the text; what does not fit continues below the start of the text, or at `indent`."""
    text, used = harmless(text), _columns_of(first)
    if width is None or width - used < 2 * _NARROWEST or not text:
        yield first + text
        return
    indent = used if indent is None else indent
    for number, part in enumerate(folded(" " * (used - indent) + text, width - indent)):
        yield first + part.lstrip() if number == 0 else " " * indent + part


def lasting(time: timedelta) -> str:
    """Format a duration in the largest unit that fits twice: "11 days", "26 hours", "7 minutes", "90 seconds"."""
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if time.total_seconds() >= 2 * length:
            return f"{time.total_seconds() / length:.0f} {unit}"
    return f"{time.total_seconds():.0f} seconds"


def _shrink(widths: list[int], room: int) -> None:
    """Narrow the widest columns until all fit."""
    while sum(widths) > room and max(widths) > _NARROWEST:
        widths[widths.index(max(widths))] -= 1


def folded(cell: str, width: int) -> list[str]:
    """Fold a printable text to lines of that width, at least one."""
    # Folds by characters, so wide ones may exceed the width a little.
    return textwrap.wrap(cell, max(width, 1), break_on_hyphens=False) if _columns_of(cell) > width else [cell]


def _columns_of(text: str) -> int:
    """Count the columns that a printable text takes on a console."""
    return sum(0 if unicodedata.combining(each) else 1 + (unicodedata.east_asian_width(each) in "WF") for each in text)


def _padded(cell: str, width: int) -> str:
    return cell + " " * (width - _columns_of(cell))
