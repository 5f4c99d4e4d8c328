"""JSON from others: limits hold before it is parsed."""

import time

import pytest

from handler.crypto.bounded_json import MAX_DEPTH, loads


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-16"])
def test_only_utf_8_is_read_because_another_encoding_hides_brackets(encoding):
    # A byte of the text is a quotation mark to who counts brackets in UTF-8: a string to the next text.
    nested = f'["\u2201",{"[" * 100_000}{"]" * 100_000},"\u2201"]'
    with pytest.raises(ValueError):
        loads(nested.encode(encoding))


def test_a_mark_of_utf_8_is_read_past():
    assert loads(b'\xef\xbb\xbf{"a": "\xc3\xbc"}') == {"a": "\xfc"}


@pytest.mark.parametrize("data", [b'"' + b'\\"' * 60_000, b'["' + b'\\"' * 60_000, b'\\"' * 60_000])
def test_a_text_without_an_end_takes_no_longer_than_its_bytes(data):
    begin = time.process_time()
    with pytest.raises(ValueError):
        loads(data)
    assert time.process_time() - begin < 2


def test_depths_up_to_the_limit_are_read():
    assert loads(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)
    with pytest.raises(ValueError, match=f"more than {MAX_DEPTH}"):
        loads(b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1))


@pytest.mark.parametrize("number", [b"9" * 5000, b"-" + b"9" * 400, b"1e999", b"-1.5e999"])
def test_a_number_that_is_none_is_refused_in_words_for_a_person(number):
    with pytest.raises(ValueError, match=r"^-?[0-9.e]{5,20} is larger than a number can be$"):
        loads(b'{"a": ' + number + b"}")
    assert loads(b"[-12345678901234567890, 0.5]") == [-12345678901234567890, 0.5]
