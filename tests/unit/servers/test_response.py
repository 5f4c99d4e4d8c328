"""An answer: its type, its dates, the time it asks to wait, and its words."""

import re
from datetime import UTC, datetime, timedelta, timezone
from email.utils import format_datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from requests.structures import CaseInsensitiveDict

from handler.servers.response import MAX_RETRY_AFTER, Answer

PROPERTY = settings(max_examples=60, deadline=None, database=None)
FIRST, LAST = datetime(1970, 1, 2), datetime(9998, 1, 1)  # noqa: DTZ001 - hypothesis adds the zone
MOMENTS = st.datetimes(FIRST, LAST, timezones=st.just(UTC))
DATE_LIKE = st.lists(
    st.sampled_from([*"MonJanGMT:+-,. \t\x1f²", "Mon, ", " Jan ", " GMT", "00:", "-0000", "2024", "9" * 20]),
    max_size=12,
).map("".join)
ANYTHING = st.one_of(st.text(max_size=30), DATE_LIKE)
PAST = st.datetimes(FIRST, datetime(2025, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - as above


def headers(**values):
    return CaseInsensitiveDict({name.replace("_", "-"): value for name, value in values.items()})


def answer(body=b"", status=200, **values):
    return Answer("https://gateway.example:8443/device", status, headers(**values), body, "gateway: PATCH /device")


def test_answer_without_headers_has_no_date_and_no_time_to_wait():
    bare = answer()
    assert (bare.date, bare.retry_after) == (None, None)


@PROPERTY
@given(MOMENTS)
def test_every_date_of_a_server_is_read_to_the_second(moment):
    assert answer(Date=format_datetime(moment, usegmt=True)).date == moment.replace(microsecond=0)


@PROPERTY
@given(MOMENTS, st.integers(-23 * 60, 23 * 60).filter(bool))
def test_date_in_another_time_zone_is_the_same_moment(moment, minutes):
    local = moment.replace(microsecond=0).astimezone(timezone(timedelta(minutes=minutes)))
    assert answer(Date=format_datetime(local)).date == local


@PROPERTY
@given(ANYTHING)
def test_text_that_is_no_date_is_no_time(text):
    found = answer(Date=text).date
    assert found is None or found.tzinfo is UTC


def test_date_without_a_zone_is_utc():
    assert answer(Date="Mon, 01 Jan 2024 00:00:00 -0000").date == datetime(2024, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    "value",
    [
        "Mon, 31 Feb 2022 00:00:00 GMT",
        "today",
        "1669058841",
        "Mon, 01 Jan 2024 25:00:00 GMT",
        "Mon, 01 Jan 99999999999999999999 00:00:00 GMT",
    ],
)
def test_impossible_date_is_no_time(value):
    assert answer(Date=value).date is None


@PROPERTY
@given(st.integers(0, 24 * 3600))
def test_seconds_to_wait_are_taken_as_they_are(seconds):
    assert answer(Retry_After=str(seconds)).retry_after == seconds


@PROPERTY
@given(st.integers(1, 24 * 3600))
def test_date_to_wait_for_is_so_many_seconds_away(seconds):
    value = format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)
    assert seconds - 5 <= answer(Retry_After=value).retry_after <= seconds


@PROPERTY
@given(PAST)
def test_date_that_has_passed_asks_for_no_wait(moment):
    assert answer(Retry_After=format_datetime(moment, usegmt=True)).retry_after == 0


@PROPERTY
@given(st.one_of(st.integers(0, 10**300).map(str), MOMENTS.map(lambda moment: format_datetime(moment, usegmt=True))))
def test_time_to_wait_is_never_negative_and_never_longer_than_a_day(value):
    assert 0 <= answer(Retry_After=value).retry_after <= MAX_RETRY_AFTER


@PROPERTY
@given(ANYTHING)
def test_any_other_text_asks_for_no_wait_or_one_within_the_limits(text):
    found = answer(Retry_After=text).retry_after
    assert found is None or 0 <= found <= MAX_RETRY_AFTER


@pytest.mark.parametrize("value", ["", "soon", "-5", "1.5", "1e3", "0x10", "5 s", "0\x1f", "²"])
def test_time_to_wait_that_is_neither_seconds_nor_a_date_is_none(value):
    assert answer(Retry_After=value).retry_after is None


@PROPERTY
@given(st.binary(max_size=5000))
def test_words_of_any_body_are_one_printable_line_of_500_characters_at_most(body):
    words = answer(body).words
    assert len(words) <= 500
    assert words == " ".join(words.split())
    assert not re.search(r"[\x00-\x1f\x7f-\x9f]", words)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", ""),
        (b"\n\t \r\n", ""),
        (b"unknown\r\n  device\x00\x1b[31m", "unknown device [31m"),
        ("clé inconnue".encode(), "clé inconnue"),
        (b"\xff\xfe", ""),
        (b"x" * 500, "x" * 500),
        (b"x" * 501, "x" * 499 + "…"),
    ],
)
def test_words_are_what_a_person_can_read_of_the_body(body, words):
    assert answer(body).words == words


def test_refusal_says_what_was_asked_and_who_answered_what():
    error = answer(b"unknown\ndevice", 403).refusal("the key was refused")
    assert str(error) == "gateway: PATCH /device: the key was refused: it answered HTTP 403: unknown device"
    assert error.status == 403


def test_refusal_without_words_ends_with_the_status():
    assert str(answer(status=400).refusal("it failed")) == "gateway: PATCH /device: it failed: it answered HTTP 400"


def test_body_is_not_shown_where_an_answer_is_printed():
    assert "secret" not in repr(answer(b"secret"))


@pytest.mark.parametrize("digits", [10, 400, 5000])
def test_time_to_wait_of_any_number_of_digits_is_a_day(digits):
    assert answer(Retry_After="9" * digits).retry_after == MAX_RETRY_AFTER


def test_date_to_wait_for_is_taken_by_the_clock_of_the_server():
    found = answer(Date="Mon, 01 Jan 2024 00:00:00 GMT", Retry_After="Mon, 01 Jan 2024 00:01:00 GMT")
    assert found.retry_after == 60
