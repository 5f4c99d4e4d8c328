"""Ids of token objects: read as fioconfig and aktualizr both read them, compared by value."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsm.slots import ObjectId, alternate, parse_ids


@pytest.mark.parametrize("text", ["7", "07", "007", " 07", "07\t"])
def test_texts_of_equal_value_are_the_same_id(text):
    assert ObjectId.parse(text) == ObjectId(7)


def test_an_id_is_written_with_two_digits_and_is_one_byte_in_the_token():
    assert str(ObjectId(7)) == "07"
    assert ObjectId(7).cka_id == b"\x07"


@pytest.mark.parametrize("text", ["", "0", "00", "10", "0a", "A", "-1", "+1", "1.0", "0x1", "1 1", "٣", "²", "1\n"])
def test_anything_but_1_to_9_is_refused_with_what_is_expected(text):
    with pytest.raises(ValueError, match="expected 01 to 09"):
        ObjectId.parse(text)


@pytest.mark.parametrize("value", [-1, 0, 10, 256])
def test_an_id_out_of_range_cannot_be_made(value):
    with pytest.raises(ValueError, match="1 to 9"):
        ObjectId(value)


@given(st.integers(1, 9))
def test_every_id_is_read_back_as_written(value):
    assert ObjectId.parse(str(ObjectId(value))) == ObjectId(value)


@given(st.text(max_size=6))
def test_any_text_is_an_id_or_a_value_error(text):
    with contextlib.suppress(ValueError):
        assert ObjectId.parse(text).value in range(1, 10)


@pytest.mark.parametrize("text", ["01,07", "1,7", " 01 , 07 ", "001,7"])
def test_a_list_of_ids_is_read_in_order(text):
    assert parse_ids(text, "PKEYIDS") == (ObjectId(1), ObjectId(7))


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


@pytest.mark.parametrize(("in_use", "free"), [("01", 7), ("1", 7), ("07", 1), ("7", 1), ("04", 1)])
def test_the_free_id_is_the_first_that_is_not_in_use_by_value(in_use, free):
    assert alternate(parse_ids("01,07", "PKEYIDS"), ObjectId.parse(in_use)) == ObjectId(free)


def test_no_free_id_is_an_error():
    with pytest.raises(ValueError, match="which is in use"):
        alternate([ObjectId(1)], ObjectId(1))
