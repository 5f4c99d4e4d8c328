"""The map of configuration files, and its re-encryption."""

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from hypothesis import given, settings
from hypothesis import strategies as st

from handler.crypto import ecies
from handler.crypto.encrypted_values import (
    MAX_VALUES,
    check_readable,
    device_files,
    dump_config,
    has_encrypted_values,
    parse_config,
    reencrypt,
)
from handler.errors import RefusedError

WIRE = json.loads((Path(__file__).parents[2] / "data" / "wire.json").read_text())
OLD, NEW, OTHER = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))
PROPERTY = settings(max_examples=40, deadline=None, database=None)


def sealed(plaintext, key=OLD, **fields):
    return {"Value": ecies.encrypt(key.public_key(), plaintext), "Unencrypted": False, **fields}


def sample():
    return {
        "wireguard-client": sealed(b"enabled=0", OnChanged=["/usr/share/fioconfig/handlers/factory-config-vpn"]),
        "plain": {"Value": "hello", "Unencrypted": True, "OnChanged": None},
        "empty": {"Value": "", "Unencrypted": False},
        "app.env": sealed("käse=1\n".encode(), OnChanged=None, CreatedBy={"who": ["x", 1]}),
        "no-mark": {"Value": ecies.encrypt(OLD.public_key(), b"\x00\xff")},
    }


def plaintexts(config, key):
    return {
        name: entry["Value"] if entry.get("Unencrypted") or not entry["Value"] else ecies.decrypt(key, entry["Value"])
        for name, entry in config.items()
    }


def test_every_encrypted_value_moves_to_the_new_key():
    config = sample()
    moved, changed = reencrypt(config, OLD, NEW)
    assert changed
    assert plaintexts(moved, NEW) == plaintexts(config, OLD)


def test_everything_but_encrypted_values_stays_in_its_order():
    config = sample()
    before = json.dumps(config)
    moved, _ = reencrypt(config, OLD, NEW)
    assert json.dumps(config) == before
    for name in ("plain", "empty"):
        assert moved[name] == config[name]
    for entry in (*config.values(), *moved.values()):
        entry.pop("Value")
    assert json.dumps(moved) == json.dumps(config)


@pytest.mark.parametrize("prefer_new", [False, True])
def test_moving_again_changes_nothing(prefer_new):
    moved, _ = reencrypt(sample(), OLD, NEW)
    again, changed = reencrypt(moved, OLD, NEW, prefer_new=prefer_new)
    assert not changed
    assert again == moved


@pytest.mark.parametrize("prefer_new", [False, True])
def test_half_moved_configuration_is_completed(prefer_new):
    config = {"a": sealed(b"1", NEW), "b": sealed(b"2", OLD)}
    moved, changed = reencrypt(config, OLD, NEW, prefer_new=prefer_new)
    assert changed
    assert moved["a"] == config["a"]
    assert plaintexts(moved, NEW) == {"a": b"1", "b": b"2"}


@pytest.mark.parametrize("prefer_new", [False, True])
def test_value_for_neither_key_is_refused_by_its_name(prefer_new):
    config = {"fine": sealed(b"1"), "lost": sealed(b"2", OTHER)}
    with pytest.raises(RefusedError, match="'lost'") as caught:
        reencrypt(config, OLD, NEW, prefer_new=prefer_new)
    assert config["lost"]["Value"] not in str(caught.value)


def test_readable_configuration_passes():
    check_readable(sample(), OLD)


@pytest.mark.parametrize("value", ["no base64!", "QUJD", ecies.encrypt(OTHER.public_key(), b"x")])
def test_unreadable_value_is_refused_by_its_name(value):
    with pytest.raises(RefusedError, match="'lost'") as caught:
        check_readable({**sample(), "lost": {"Value": value}}, OLD)
    assert value not in str(caught.value)


def test_only_values_encrypted_to_the_key_count_as_encrypted():
    assert has_encrypted_values(sample())
    assert not has_encrypted_values({name: sample()[name] for name in ("plain", "empty")})
    assert not has_encrypted_values({})


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b'"x"',
        b"{",
        b"\xff",
        b"<html>",
        b"[" * 100_000,
        b'{"f": null}',
        b'{"f": "x"}',
        b'{"f": {"Value": 1}}',
        b'{"f": {"Value": "s3cret", "Unencrypted": "no"}}',
        b'{"f": {"Value": "s3cret", "OnChanged": "cmd"}}',
        b'{"f": {"Value": "s3cret", "OnChanged": [1]}}',
        b'{"f": {"Value": "s3cret", "Since": NaN}}',
        b'{"f": {"Value": "s3cret", "Since": 1e999}}',
        b'{"f": {"Value": "s3cret", "Since": ' + b"[" * 65 + b"]" * 65 + b"}}",
        b'{"f": {"Value": "s3cret", "Since": ' + b"9" * 5000 + b"}}",
        b'{"f": {}}',
        b'{"f": {"Content": "s3cret"}}',
        json.dumps({str(number): {"Value": "s3cret"} for number in range(MAX_VALUES + 1)}).encode(),
    ],
)
def test_anything_else_is_refused_with_its_source(data):
    with pytest.raises(RefusedError, match=r"^/var/sota/config\.encrypted") as caught:
        parse_config(data, "/var/sota/config.encrypted")
    assert "s3cret" not in str(caught.value)


def test_absent_and_null_fields_are_empty_as_in_go():
    config = parse_config(b'{"f": {"Value": null, "Unencrypted": null}, "g": {"Unencrypted": false}}', "x")
    assert not has_encrypted_values(config)
    assert reencrypt(config, OLD, NEW) == (config, False)
    assert device_files(config)[0] == {"name": "f", "value": "", "unencrypted": False}


def test_null_is_no_files_as_in_go():
    assert parse_config(b"null", "x") == {}


@pytest.mark.parametrize(
    ("fields", "value", "unencrypted"),
    [
        ('"value": "v", "unencrypted": true', "v", True),
        ('"VALUE": "v", "uNENCRYPTED": true', "v", True),
        ('"Value": "a", "value": "b"', "b", None),
        ('"value": "b", "Value": "a"', "a", None),
        ('"Value": "v", "Value": null, "Unencrypted": true, "Unencrypted": null', "v", True),
        ('"Value": "u", "value": "w", "Value": "v"', "v", None),
        ('"value": "v", "Value": null', "v", None),  # null has no effect on a text of Go's, nor on a bool
        ('"Value": "v", "Unencrypted": true, "unencrypted": null', "v", True),
    ],
)
def test_names_of_fields_are_told_whatever_their_case_and_the_last_counts(fields, value, unencrypted):
    (entry,) = parse_config(b'{"f": {%s, "More": [1, {"x": null}]}}' % fields.encode(), "x").values()
    assert (entry.get("Value"), entry.get("Unencrypted")) == (value, unencrypted)
    assert entry["More"] == [1, {"x": None}]


def test_values_under_any_name_follow_the_new_key():
    config = parse_config(json.dumps({"f": {"value": ecies.encrypt(OLD.public_key(), b"s")}}).encode(), "x")
    moved, changed = reencrypt(config, OLD, NEW)
    assert changed
    check_readable(moved, NEW)


def test_a_large_configuration_is_read():
    config = {str(number): {"Value": "x" * 2800, "OnChanged": []} for number in range(500)}
    assert parse_config(json.dumps(config).encode(), "x") == config


def test_dump_is_compact_and_comes_back():
    config = {"ü\ud800": {"Value": "a<b", "OnChanged": None}}
    assert b" " not in dump_config(config)
    assert parse_config(dump_config(config), "x") == config


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
ENTRY = st.fixed_dictionaries(
    {"Value": st.text(max_size=10), "Unencrypted": st.just(True)},
    optional={"OnChanged": st.none() | st.lists(st.text(max_size=5), max_size=2), "Extra": JSON},
)


@PROPERTY
@given(st.dictionaries(st.text(max_size=10), ENTRY, max_size=4))
def test_any_configuration_survives_reading_moving_and_writing(config):
    moved, changed = reencrypt(parse_config(dump_config(config), "x"), OLD, NEW)
    assert not changed
    assert json.dumps(moved) == json.dumps(config)


@PROPERTY
@given(st.binary(max_size=80) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_a_map_or_refused(data):
    try:
        config = parse_config(data, "x")
    except RefusedError:
        return
    assert isinstance(config, dict)
    device_files(config)


def test_configuration_of_the_reference_is_readable_with_its_key():
    key = load_pem_private_key(WIRE["cert-rotation.state.completed"]["NewKey"].encode(), None)
    config = parse_config(json.dumps(WIRE["config.encrypted after"]).encode(), "x")
    check_readable(config, key)
    assert dump_config(config).decode() == WIRE["cert-rotation.state.completed"]["FullConfigEncrypted"]


def test_files_for_the_gateway_look_as_the_reference_sends_them():
    body = next(json.loads(each["body"]) for each in WIRE["requests"] if each["path"] == "/config")
    value = body["files"][1]["value"]
    config = {
        "note": {"Value": "plain", "Unencrypted": True, "OnChanged": None},
        "wireguard-client": {
            "Value": value,
            "OnChanged": ["/usr/share/fioconfig/handlers/factory-config-vpn"],
            "Unencrypted": False,
        },
    }
    assert json.dumps(device_files(config)) == json.dumps(body["files"])


@pytest.mark.parametrize("name", ["OnChanged", "onchanged"])
def test_commands_that_are_null_after_all_are_none_as_in_go(name):
    fields = f'"Value": "v", "OnChanged": ["x"], "{name}": null'
    config = parse_config(b'{"f": {%s}}' % fields.encode(), "config.encrypted")
    assert "on-changed" not in device_files(config)[0]


def test_a_command_that_is_null_is_an_empty_one_as_in_go():
    config = parse_config(b'{"f": {"Value": "v", "OnChanged": [null, "x"]}}', "config.encrypted")
    assert dump_config(config) == b'{"f":{"Value":"v","OnChanged":[null,"x"]}}'
    assert device_files(config)[0]["on-changed"] == ["", "x"]


def test_unknown_fields_go_to_the_gateway_too():
    assert device_files({"f": {"Value": "v", "OnChanged": [], "Extra": 1, "name": "not me"}}) == [
        {"Extra": 1, "name": "f", "value": "v", "unencrypted": False}
    ]


@pytest.mark.parametrize(
    ("value", "limit"), [(b"[" * 65 + b"]" * 65, "nests more than 64"), (b"1e999", "larger than a number can be")]
)
def test_a_limit_that_a_configuration_exceeds_is_named(value, limit):
    with pytest.raises(RefusedError, match=limit):
        parse_config(b'{"f": {"Value": "x", "Since": ' + value + b"}}", "config.encrypted")
