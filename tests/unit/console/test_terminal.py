"""The width of a console."""

import os

import pytest

from handler.console.terminal import USUAL_WIDTH, Console
from tests.terminal import make_terminal


@pytest.mark.parametrize(
    ("told", "width"),
    [("40", 40), ("", USUAL_WIDTH), *((odd, USUAL_WIDTH) for odd in ("0", "-5", "9" * 5000, "\u00b2", "4 0", "wide"))],
    ids=lambda each: str(each)[:8],
)
def test_a_width_that_is_none_is_not_believed(told, width):
    ours, theirs = make_terminal()
    with open(theirs, "w") as stream:  # noqa: PTH123
        assert Console.of(stream, {"COLUMNS": told}).width == width
    os.close(ours)
