"""The reader of DER and BER: within bounds, whatever it is given."""

import contextlib
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hsm import der

INDEFINITE = b"\x30\x80"


@settings(deadline=None, database=None, max_examples=300)
@given(st.binary(max_size=200))
def test_any_bytes_are_elements_or_a_value_error(data):
    with contextlib.suppress(ValueError):
        assert b"".join(each.encoded for each in der.elements(data)) == data


@given(st.recursive(st.binary(max_size=300), lambda each: st.lists(each, max_size=3).map(tuple)))
def test_what_is_written_is_read_again(value):
    def written(each):
        if isinstance(each, bytes):
            return der.encoded(der.OCTET_STRING, each)
        return der.encoded(der.SEQUENCE, *map(written, each))

    def found(element):
        return element.content if element.tag == der.OCTET_STRING else tuple(map(found, element.items))

    assert found(der.one(written(value))) == value


@pytest.mark.parametrize(
    "data", [b"\x30\x81\x03\x02\x01\x05", b"\x30\x83\0\0\x03\x02\x01\x05", INDEFINITE + b"\x02\x01\x05\0\0"]
)
def test_a_length_may_be_written_in_any_way(data):
    assert [each.content for each in der.one(data, der.SEQUENCE).items] == [b"\x05"]


def test_lengths_that_are_left_open_may_nest():
    data = INDEFINITE * 3 + b"\x02\x01\x05" + b"\0\0" * 3
    assert der.one(data).items[0].items[0].items[0].content == b"\x05"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x30",
        b"\x30\x05\x01",
        b"\x30\x89" + b"\xff" * 9,
        b"\x30\x88" + b"\xff" * 8,
        b"\x1f\xff\xff",
        INDEFINITE,
        INDEFINITE * 20_000,
        b"\x04\x80\0\0",
    ],
    ids=["nothing", "a tag", "cut", "a long length", "a large length", "a long tag", "open", "deep", "open text"],
)
def test_what_is_no_element_is_a_value_error(data):
    with pytest.raises(ValueError):
        der.one(data)


def test_more_elements_than_anybody_writes_are_refused():
    with pytest.raises(ValueError, match=f"more than {der.MAX_ITEMS}"):
        list(der.elements(b"\x05\0" * 1_000_000))


def test_large_inputs_cost_time_in_proportion():
    def seconds(count):
        data = INDEFINITE * 30 + b"\x05\0" * count + b"\0\0" * 30
        begin = time.process_time()
        der.one(data)
        return time.process_time() - begin

    assert seconds(100_000) < 40 * max(seconds(10_000), 0.001)


@pytest.mark.parametrize("text", ["1.2.840.10045.2.1", "2.5.29.15", "2.999.1", "0.9.2342.19200300.100.1.25"])
def test_object_identifiers_are_written_and_read(text):
    assert der.dotted(der.one(der.oid(text), der.OID).content) == text


@pytest.mark.parametrize("content", [b"", b"\x2a\x86", b"\x2a" * 65, b"\x2a" + b"\xff" * 30 + b"\x01"])
def test_what_is_no_object_identifier_in_use_is_a_value_error(content):
    with pytest.raises(ValueError, match="no object identifier"):
        der.dotted(content)
