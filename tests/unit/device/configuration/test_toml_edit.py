"""Setting two keys in any TOML document, and nothing else."""

import re
import tomllib

import pytest
import tomlkit
from hypothesis import example, given, settings
from hypothesis import strategies as st

from handler.device.configuration.toml_edit import set_values
from handler.device.configuration.toml_text import TomlText

KEY, CERTIFICATE = "import.tls_pkey_path", "import.tls_clientcert_path"
VALUES = {KEY: "/var/sota/pkey.1.pem", CERTIFICATE: "/var/sota/client.1.pem"}
PROPERTY = settings(max_examples=100, deadline=None, database=None)
SOTA = """\
# kept by hand
[tls]   # the gateway
server = "https://gateway.example:8443"

[import]
\t# old names
  tls_pkey_path = '/var/sota/pkey.pem' # in use
  tls_cacert_path = "/var/sota/root.crt"
  tls_clientcert_path="/var/sota/client.pem"

[pacman]
tags = [ "main", # and
  "devel" ]
"""


def test_only_the_two_values_change():
    expected = SOTA.replace("'/var/sota/pkey.pem'", '"/var/sota/pkey.1.pem"').replace(
        '"/var/sota/client.pem"', '"/var/sota/client.1.pem"'
    )
    assert set_values(SOTA, VALUES) == expected
    assert set_values(SOTA.replace("\n", "\r\n"), VALUES) == expected.replace("\n", "\r\n")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# only a comment",
        "[import]",
        "import = {}",
        'import = { tls_pkey_path = "x", a = [1, 2] }',
        "import.tls_pkey_path = 'x'\nb = 1\n",
        "[import.sub]\na = 1\n[tls]\nb = 1\n[import.other]\nc = 1\n",
        '["import"]\n"tls_pkey_path" = "x"\n',
        "[[pacman]]\na = 1\n[[pacman]]\na = 2\n",
        "[import]\ntls_pkey_path = 7\n",
        "a = nan\nb = inf\nc = 1979-05-27T07:32:00Z\n",
        'a = """x\r\ny"""\r\n[import]\r\ntls_pkey_path = "x"\r\n\r\n[tls]\r\n',
    ],
)
def test_keys_are_set_in_any_layout(text):
    result = tomllib.loads(set_values(text, VALUES), parse_float=str)
    before = tomllib.loads(text, parse_float=str)
    before.setdefault("import", {}).update(tls_pkey_path=VALUES[KEY], tls_clientcert_path=VALUES[CERTIFICATE])
    assert result == before


def test_line_ends_of_the_document_are_used_for_new_lines():
    result = set_values('[import]\r\ntls_pkey_path = "x"\r\n', VALUES)
    assert result.count("\r\n") == result.count("\n") == 3


@pytest.mark.parametrize("text", ["import = 3", "import = 'x'", "[[import]]\na = 1", "import = []"])
def test_key_in_a_place_that_is_no_table_is_refused(text):
    with pytest.raises(ValueError, match="cannot be set there"):
        set_values(text, VALUES)


def test_any_text_can_be_a_value():
    value = "\"quoted\" \\ 'x' \t ü\n"
    assert tomllib.loads(set_values(SOTA, {KEY: value}))["import"]["tls_pkey_path"] == value


NAME = st.sampled_from(["import", "tls", "a", "tls_pkey_path", "x y", ""])
LEAF = (
    st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
    | st.dates()
)
TABLE = st.recursive(
    st.dictionaries(NAME, LEAF, max_size=3),
    lambda inner: st.dictionaries(NAME, LEAF | inner | st.lists(inner, max_size=2), max_size=3),
    max_leaves=6,
)


def has_room(table):
    """Tell whether the two keys could be set: no table stands in their place."""
    found = table.get("import", {})
    return isinstance(found, dict) and not any(isinstance(found.get(key.split(".")[1]), dict | list) for key in VALUES)


@PROPERTY
@given(TABLE.filter(has_room), st.sampled_from(["\n", "\r\n"]))
def test_any_document_keeps_everything_but_the_two_keys(table, line_end):
    text = tomlkit.dumps(table).replace("\n", line_end)
    assert tomllib.loads(text) == table
    table.setdefault("import", {}).update(tls_pkey_path=VALUES[KEY], tls_clientcert_path=VALUES[CERTIFICATE])
    result = set_values(text, VALUES)
    assert tomllib.loads(result) == table
    assert set_values(result, VALUES) == result


LINE = st.sampled_from(
    [
        "[import]",
        "[import.sub]",
        "[tls]",
        "[import] # note",
        "tls_pkey_path = 'x' # in use",
        "import.tls_clientcert_path = 'x'",
        "import = { tls_pkey_path = 'x' }",
        "import.sub.a = 1",
        "[[list]]",
        "[[import.list]]",
        "a = 1",
        "a.b = [1, 2]",
        "# note",
        "",
    ]
)


def is_toml(text):
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return False
    return True


@PROPERTY
@example("[import.sub]\na = 1\n[tls]\nb = 1\n[import]\nc = 1\n")  # tomlkit 0.12 cannot
@given(st.lists(LINE, max_size=7).map("\n".join).filter(is_toml))
def test_any_layout_is_edited_faithfully_or_refused(text):
    before = tomllib.loads(text)
    try:
        result = set_values(text, VALUES)
    except ValueError:
        return
    before.setdefault("import", {}).update(tls_pkey_path=VALUES[KEY], tls_clientcert_path=VALUES[CERTIFICATE])
    assert tomllib.loads(result) == before
    for comment in ("# note", "# in use"):
        assert result.count(comment) == text.count(comment)


WITHOUT_QUOTES = """\
\ufeff# kept by hand
[import]
tls_pkey_path = "/var/sota/pkey.pem"
tls_clientcert_path = /var/sota/client.pem # in use

[pacman]
tags = main, devel

[uptane]
hardware = intel # caf\udce9
"""


def test_values_without_quotes_stay_as_they_are():
    expected = WITHOUT_QUOTES.replace("/var/sota/pkey.pem", "/var/sota/pkey.1.pem").replace(
        "/var/sota/client.pem # in use", '"/var/sota/client.1.pem"'
    )
    assert set_values(WITHOUT_QUOTES, VALUES) == expected


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("[import]\na = x\n", "[import]\n{}a = x\n"),
        ("[import]\na = x\n# note\nb = y\n", "[import]\n{}a = x\n# note\nb = y\n"),
        ("[import]\na = 'z'\nb = y\n", "[import]\na = 'z'\n{}b = y\n"),
        ("[import]\n[tls]\na = x\n", "[import]\n{}[tls]\na = x\n"),
        ("[tls]\na = x\n", "[tls]\na = x\n\n[import]\n{}"),
        ("[tls]\na = x", "[tls]\na = x\n\n[import]\n{}"),
        ("[import]\n  a = x\n", "[import]\n  {}  a = x\n"),
    ],
)
def test_new_line_goes_where_fioconfig_can_read_it(before, after):
    assert set_values(before, {KEY: "/k"}) == after.format('tls_pkey_path = "/k"\n')


@pytest.mark.parametrize(
    "text",
    [
        "[import]\na = x\ntls_pkey_path = 'y'\n",
        "[import]\ntls_pkey_path = 'y'\n[tls]\nserver = https://h\nca = 'file'\n",
        "[import]\r\ntls_pkey_path = 'y'\r\na = x\r\n",
        "; ini\n[import]\ntls_pkey_path = 'y'\n",
        "[import]\ntls_pkey_path = 'y'\n\n[s]\nversion = 1.2.3\n",
        "[import]\ntls_pkey_path = 'y'\n\n[s]\nlast = x",
    ],
)
def test_file_that_fioconfig_cannot_read_is_refused(text):
    with pytest.raises(ValueError, match=r"line \d+: fioconfig"):
        set_values(text, VALUES)


BARE_LINE = st.sampled_from(
    [
        "[import]",
        "[tls]",
        "tls_pkey_path = /x # y",
        "tls_clientcert_path = 'x'",
        "a = b c",
        "d = 'x'",
        "# note",
        "",
        "  ",
    ]
)


@PROPERTY
@given(st.lists(BARE_LINE, max_size=9).map(lambda lines: "".join(f"{line}\n" for line in lines)))
def test_any_file_without_quotes_keeps_every_other_line_or_is_refused(text):
    try:
        result = set_values(text, VALUES)
    except ValueError:
        return
    toml = TomlText(result)
    assert toml.stops() is None
    assert {key: toml.values()["import"][key.split(".")[1]] for key in VALUES} == VALUES
    ours = [f'{key.split(".")[1]} = "{value}"' for key, value in VALUES.items()]
    # Added are nothing but our lines, and in the end a table for them.
    kept = [line for line in result.splitlines() if line not in ours]
    before = [line for line in text.splitlines() if not re.match("tls_.*", line)]
    others = [line for line in kept if not re.match("tls_.*", line)]
    assert others in (before, [*before, "", "[import]"], ["[import]"])
