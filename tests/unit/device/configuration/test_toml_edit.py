"""Setting two keys in any TOML document, and nothing else."""

import tomllib

import pytest
import tomlkit
from hypothesis import example, given, settings
from hypothesis import strategies as st

from handler.device.configuration.toml_edit import set_values

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


@PROPERTY
@given(TABLE.filter(lambda table: isinstance(table.get("import", {}), dict)), st.sampled_from(["\n", "\r\n"]))
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
