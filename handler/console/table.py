"""Plain text in columns, for a console of any width.

Everything here is ASCII but for what comes from outside, and that is made harmless: whoever may label an object of a
token must not steer the console of who looks at it.
"""

import textwrap
import unicodedata
from collections.abc import Iterator, Sequence

from handler.errors import harmless

GAP = "  "
_NARROWEST = 6


def columns(header: Sequence[str], rows: Sequence[Sequence[str]], width: int | None = None) -> Iterator[str]:
    """Give the lines of a table; cells of the widest columns go over several lines where it is wider than `width`.

    `width` is in columns of the console; None: as wide as it gets.
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


def hanging(first: str, text: str, width: int | None = None) -> Iterator[str]:
    """Give `first` and the text behind it; what does not fit goes on below the text's beginning."""
    text = harmless(text)
    room = None if width is None else width - _columns_of(first)
    if room is None or room < 2 * _NARROWEST or not text:
        yield first + text
        return
    for number, part in enumerate(folded(text, room)):
        yield (first if number == 0 else " " * _columns_of(first)) + part


def _shrink(widths: list[int], room: int) -> None:
    """Take from the widest columns until all fit."""
    while sum(widths) > room and max(widths) > _NARROWEST:
        widths[widths.index(max(widths))] -= 1


def folded(cell: str, width: int) -> list[str]:
    """Give a printable text in lines of that width, one at least."""
    # By characters, not columns: wide ones may stand out a little.
    return textwrap.wrap(cell, max(width, 1), break_on_hyphens=False) if _columns_of(cell) > width else [cell]


def _columns_of(text: str) -> int:
    """Count the columns of a console that a printable text takes."""
    return sum(0 if unicodedata.combining(each) else 1 + (unicodedata.east_asian_width(each) in "WF") for each in text)


def _padded(cell: str, width: int) -> str:
    return cell + " " * (width - _columns_of(cell))
