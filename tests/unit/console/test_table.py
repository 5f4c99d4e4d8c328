"""Columns, folding, and text from outside that must not steer a console."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handler.console.table import columns, hanging
from handler.console.terminal import Console, escape

HEADER = ("name", "use")
ROWS = [("a", "in use"), ("a longer one", "free")]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_columns_stand_below_each_other_and_no_line_ends_in_blanks():
    assert list(columns(HEADER, ROWS)) == [
        "name          use",
        "a             in use",
        "a longer one  free",
    ]


def test_a_table_without_rows_is_its_header():
    assert list(columns(HEADER, [])) == ["name  use"]


def test_a_cell_that_is_too_wide_goes_on_below_itself():
    assert list(columns(HEADER, ROWS, width=18)) == [
        "name        use",
        "a           in use",
        "a longer    free",
        "one",
    ]


def test_wide_characters_take_two_columns_and_combining_ones_none():
    assert list(columns(HEADER, [("証明書", "x"), ("e\u0301", "y")])) == ["name    use", "証明書  x", "e\u0301       y"]


@given(st.lists(st.tuples(st.text(max_size=60), st.text(max_size=60)), max_size=5), st.integers(20, 200))
def test_no_line_of_ascii_is_wider_than_the_console(rows, width):
    shown = list(
        columns(HEADER, [tuple(each.encode("ascii", "replace").decode() for each in row) for row in rows], width)
    )
    assert [line for line in shown if len(line) > width] == []


def test_a_long_text_hangs_below_its_beginning():
    assert list(hanging("ok  ", "one two three four", 16)) == ["ok  one two", "    three four"]


@pytest.mark.parametrize("width", [None, 200, 5])
def test_a_text_that_fits_or_cannot_be_folded_is_one_line(width):
    assert list(hanging("ok  ", "one two", width)) == ["ok  one two"]


def test_only_a_terminal_has_a_width():
    assert Console.of(io.StringIO(), {"TERM": "xterm", "LANG": "de_DE.UTF-8"}) == Console(None, colours=False)
    assert Console.of(Terminal(), {"TERM": "xterm"}).width


@pytest.mark.parametrize(
    ("environment", "colours"),
    [
        ({"TERM": "xterm"}, True),
        ({"TERM": "vt220", "NO_COLOR": ""}, True),
        ({"TERM": "xterm", "NO_COLOR": "1"}, False),
        ({"TERM": "dumb"}, False),
        ({}, False),
    ],
)
def test_colours_are_for_terminals_that_have_them_and_people_who_want_them(environment, colours):
    console = Console.of(Terminal(), environment)
    assert (console.coloured("problem", "problem  ") != "problem  ") == colours
    assert console.coloured("skipped", "skipped") == "skipped"


@pytest.mark.parametrize(
    ("environment", "shown"),
    [
        ({}, "Gr\\xfc\\xdfe"),
        ({"LC_ALL": "C", "LANG": "de_DE.UTF-8"}, "Gr\\xfc\\xdfe"),
        ({"LC_ALL": "", "LANG": "POSIX"}, "Gr\\xfc\\xdfe"),
        ({"LANG": "C.UTF-8"}, "Grüße"),
        ({"LC_ALL": "C", "PYTHONIOENCODING": "utf-8"}, "Grüße"),
    ],
)
def test_where_the_locale_is_c_everything_is_ascii(environment, shown):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    escape(stream, environment)
    stream.write("Grüße")
    assert stream.buffer.getvalue().decode() == shown
