"""TOML as fioconfig and aktualizr read it: 46 small files with what fioconfig's own reader makes of each."""

import json
import time
import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handler.device.configuration.toml_text import MAX_CHARACTERS, MAX_DEPTH, TomlText

CASES = json.loads((Path(__file__).parents[3] / "data" / "toml.json").read_text())["cases"]
READ = [case for case in CASES if "read" in case]
REFUSED = [case for case in CASES if "error" in case]
PROPERTY = settings(max_examples=200, deadline=None, database=None)


def comparable(values):
    return json.loads(json.dumps(values, default=str))


@pytest.mark.parametrize("case", READ, ids=lambda case: case["name"])
def test_what_fioconfig_reads_is_read_alike(case):
    toml = TomlText(case["text"])
    assert comparable(toml.values()) == case["read"]
    assert toml.stops() is None


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case["name"])
def test_what_fioconfig_refuses_is_known(case):
    try:
        toml = TomlText(case["text"])
        toml.values()
    except ValueError as error:
        assert str(error).startswith("line ")  # noqa: PT017 - either is right
    else:
        assert toml.stops().startswith("line ")


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("[s]\na = /x\nb = /y\n", {"a": "/x", "b": "/y"}),
        ("[s]\r\na = promoted\r\nb = 'x'\r\n", {"a": "promoted", "b": "x"}),
        ("; ini\n[s]\na = promoted", {"a": "promoted"}),
        ("[s]\na = 1.2.3\n", {"a": "1.2.3"}),
        ("[s]\na = 12ab\nb = -x\nc = info\n", {"a": "12ab", "b": "-x", "c": "info"}),
        ("[s]\na =\nb = 'x'\n", {"a": "", "b": "x"}),
        ("[s]\na = [main]\n", {"a": "[main]"}),
        ('[s]\na = [it\'s \\"so\\"]\n', {"a": '[it\'s "so"]'}),
    ],
)
def test_what_aktualizr_alone_reads_is_read_and_said_to_stop_fioconfig(text, read):
    toml = TomlText(text)
    assert toml.values() == {"s": read}
    assert toml.stops() is not None
    assert toml.odd()


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("[s]\na = one\\ttwo \\u0041\n", "one\ttwo A"),
        ('[s]\na = "x\\/y" # why\n', "x/y"),
        ("[s]\na = //h/p#f\n# note\n", "//h/p#f"),
    ],
)
def test_escapes_are_those_of_fioconfig(text, read):
    toml = TomlText(text)
    assert toml.values() == {"s": {"a": read}}
    assert toml.stops() is None


def test_layouts_that_toml_forbids_and_fioconfig_takes_are_read():
    toml = TomlText("s.a = 'x'\n[s]\nb = { c = 1,\n  d = 2 }\n")
    assert toml.values() == {"s": {"a": "x", "b": {"c": 1, "d": 2}}}


def test_tables_below_an_element_of_an_array_are_its_own():
    text = "[[a]]\n[a.b]\nx = 1\n[[a]]\n[a.b]\nx = 2\n[[a.c]]\n[a.c.d]\n[[a.c]]\n[a.c.d]\n"
    assert TomlText(text).values() == tomllib.loads(text)
    with pytest.raises(ValueError, match=r"line 11: table a\.c\.d is there twice"):
        TomlText(f"{text}[a.c.d]\n").values()


def test_odd_values_are_named_with_their_line_and_not_shown():
    (said,) = TomlText("[p11]\nlabel = 'x'\npass = hunter2\n").odd()
    assert said.startswith("line 3: the value of p11.pass has no quotes")
    assert "hunter2" not in said


@pytest.mark.parametrize(
    "text",
    [
        "a",
        "[a",
        '[a]\nb = "hunter2\n',
        "a = '''hunter2",
        'a = "hunter2" b',
        "a = [ 'x',\n",
        "a = { b = x }",
        "a = { b = 1 c = 2 }",
        "[a]\n[a]\n",
        "a = 1\na = 2\n",
        "a = 1\n[a]\n",
        "a = 1\n[[a]]\n",
        "a = 'x'\nb = [\n  main\n]\n",
    ],
)
def test_what_nobody_reads_is_refused_with_its_line_and_without_the_value(text):
    with pytest.raises(ValueError, match=r"line \d+: |is not a table") as caught:
        TomlText(text).values()
    assert "hunter2" not in str(caught.value)


HUGE = {
    "integer of many digits": "a = " + "9" * 5000 + "\n",
    "arrays": "a = " + "[" * 5000 + "]" * 5000 + "\n",
    "arrays without an end": "".join(f"a{number} = [\n" for number in range(20_000)),
    "arrays in arrays": "".join(f"a{number} = [\n" for number in range(20_000)) + "]" * 20_000,
    "inline tables": "a = " + "{ a = " * 5000 + "1" + " }" * 5000,
    "parts of a key": "a" + ".a" * 100_000 + " = 1\n",
    "parts of a table": "[a" + ".a" * 100_000 + "]\n",
    "tables": "[" * 100_000,
    "quotes": "a = " + '"' * 100_000,
    "escapes": 'a = "' + "\\" * 100_001,
    "blanks": "a = " + " " * 200_000 + "x",
    "characters": "# " + "x" * MAX_CHARACTERS,
    "escaped quotes in an array": 'a = ["' + '\\"' * 100_000 + "]",
    "quotes of a long text in an array": "a = [" + '\\"""' * 60_000 + "]",
    "tables and elements of an array": "".join(f"[a{number}]\n" for number in range(15_000)) + "[[b]]\n" * 15_000,
    "keys": "".join(f"a{number} = x\n" for number in range(15_000)),
}


@pytest.mark.parametrize("kind", HUGE)
def test_nothing_takes_long_or_ends_in_another_error(kind):
    begin = time.process_time()
    try:
        toml = TomlText(HUGE[kind])
        toml.values()
        toml.stops()
        toml.odd()
    except ValueError:
        pass
    assert time.process_time() - begin < 5


def test_depths_up_to_the_limit_are_read():
    text = ".".join("a" * MAX_DEPTH) + " = " + "[" * MAX_DEPTH + "]" * MAX_DEPTH
    assert TomlText(text).values() == tomllib.loads(text)


VALUES = [
    "'x'",
    '"a#b"',
    '"\\""',
    '"""x\ny=1"""',
    "'''a\n[b]'''",
    '""',
    "'''''a''''",
    '"""a\\\n b""""',
    "12",
    "-1.5e3",
    "inf",
]
VALUES += [
    "true",
    "1979-05-27 07:32:00Z",
    "07:32:00",
    "[1, 2]",
    "[\n 'a', # b ]\n 'c',\n]",
    "[[1], ['[']]",
    "[{ a = 1 }]",
]
VALUES += ["{}", "{ a = 'x', b.c = [1] }", '{ a = { b = "}" } }', "0x1f", "1_000", "nan"]
PIECES = [
    "a",
    "b.c",
    '"q.r"',
    "'s'",
    " = ",
    "=",
    *VALUES,
    "\n",
    "\n",
    "\r\n",
    "[a]",
    "[b]",
    "[[d]]",
    "[d.e]",
    " # note",
    " ",
    "\t",
]


def read_as_toml(text):
    """Make sure that what the standard library reads is read alike."""
    try:
        expected = tomllib.loads(text, parse_float=str.encode)
    except ValueError:
        expected = None
    try:
        found = TomlText(text).values()
    except ValueError:
        found = None
    assert expected is None or found == expected


@PROPERTY
@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from(VALUES))), st.lists(st.sampled_from(PIECES)))
def test_any_values_are_read_as_toml_reads_them(pairs, pieces):
    text = "".join(f"{key}{number} = {value}\n" for number, (key, value) in enumerate(pairs)) + "".join(pieces)
    read_as_toml(text)


@PROPERTY
@given(st.text("[]{}=.,#;\"'\\\n\r\t ab1-+:", max_size=40))
def test_any_toml_is_read_as_toml(text):
    read_as_toml(text)
