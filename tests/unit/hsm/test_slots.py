"""Ids of token objects: read as fioconfig and aktualizr both read them, compared by value."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsm.errors import ObjectConflictError, UnsupportedError
from hsm.slots import ALL_IDS, IdentityNames, alternate, id_of, parse_ids, read_id


@pytest.mark.parametrize("text", ["7", "07", "007", " 07", "07\t"])
def test_texts_of_equal_value_are_the_same_id(text):
    assert read_id(text) == "07"


@pytest.mark.parametrize("text", ["", "0", "00", "10", "0a", "A", "-1", "+1", "1.0", "0x1", "1 1", "٣", "²", "1\n"])
def test_anything_but_1_to_9_is_refused_with_what_is_expected(text):
    with pytest.raises(ValueError, match="expected 01 to 09"):
        read_id(text)
    with pytest.raises(UnsupportedError, match="expected 01 to 09"):
        id_of(text)


def test_every_id_is_read_back_as_written():
    assert tuple(map(read_id, ALL_IDS)) == ALL_IDS
    assert [bytes.fromhex(each) for each in ALL_IDS] == [bytes([value]) for value in range(1, 10)]


def test_an_identity_names_its_ids_by_value():
    assert IdentityNames("1", "003").ids == ("01", "03")


@given(st.text(max_size=6))
def test_any_text_is_an_id_or_a_value_error(text):
    with contextlib.suppress(ValueError):
        assert read_id(text) in ALL_IDS


@pytest.mark.parametrize("text", ["01,07", "1,7", " 01 , 07 ", "001,7"])
def test_a_list_of_ids_is_read_in_order(text):
    assert parse_ids(text, "PKEYIDS") == ("01", "07")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "expected 01 to 09"),
        ("01", "two ids or more"),
        ("01,", "expected 01 to 09"),
        ("01,1", "twice"),
        ("01,07,007", "twice"),
        ("01,10", "expected 01 to 09"),
        ("01 07", "expected 01 to 09"),
    ],
)
def test_a_bad_list_is_refused_by_name(text, why):
    with pytest.raises(ValueError, match=why) as refusal:
        parse_ids(text, "PKEYIDS")
    assert f"PKEYIDS={text}" in str(refusal.value)


@pytest.mark.parametrize(("in_use", "free"), [("01", "07"), ("1", "07"), ("07", "01"), ("7", "01"), ("04", "01")])
def test_the_free_id_is_the_first_that_is_not_in_use_by_value(in_use, free):
    assert alternate(parse_ids("01,07", "PKEYIDS"), read_id(in_use)) == free


def test_no_free_id_is_an_error():
    with pytest.raises(ObjectConflictError, match="which is in use"):
        alternate([read_id("01")], read_id("1"))
