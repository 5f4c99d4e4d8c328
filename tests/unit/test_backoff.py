"""When the daemon tries again: never too soon, never too late, and every device at its own time."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handler.backoff import MAX_ASKED, Backoff, Turn, in_line
from handler.servers.http import Limits

delay = Backoff().delay  # as it is shipped
NAMES = st.text(max_size=40)
ATTEMPTS = st.integers(1, 10_000)
QUICK = settings(deadline=None, database=None, max_examples=100)


@QUICK
@given(NAMES, NAMES, ATTEMPTS)
def test_a_wait_is_between_half_a_minute_and_an_hour_and_the_same_every_time(device, rotation_id, attempt):
    assert 30 <= delay(device, rotation_id, attempt) <= 3600
    assert delay(device, rotation_id, attempt) == delay(device, rotation_id, attempt)


@QUICK
@given(NAMES, NAMES, ATTEMPTS, st.floats(0, 10 * MAX_ASKED))
def test_nobody_comes_back_before_a_server_asks_for_it_nor_more_than_an_hour_after_a_day(
    device, rotation_id, attempt, asked
):
    waited = delay(device, rotation_id, attempt, asked)
    assert min(asked, MAX_ASKED) <= waited <= min(max(asked, 30), MAX_ASKED) + 3600


@QUICK
@given(st.floats(0.001, 1000), st.floats(0.001, 100_000), ATTEMPTS)
def test_other_bounds_are_kept_as_well(first, longest, attempt):
    waited = Backoff(first, longest).delay("device", "rotation", attempt)
    assert first <= waited <= max(first, longest)


def test_the_bound_doubles_up_to_an_hour():
    longest = [max(delay(f"device {number}", "certs", attempt) for number in range(2000)) for attempt in range(1, 10)]
    bounds = [60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]
    assert all(0.97 * bound < found <= bound for found, bound in zip(longest, bounds, strict=True))


def test_a_thousand_devices_are_spread_evenly():
    tenths = [0] * 10
    for number in range(1000):
        tenths[int((delay(f"device {number}", "certs-1", 7) - 30) / (3600 - 30) * 10)] += 1
    assert min(tenths) > 60
    assert max(tenths) < 140


def test_another_rotation_spreads_them_another_way():
    first, second = ([delay(f"device {number}", name, 5) for number in range(20)] for name in ("certs-1", "certs-2"))
    assert sorted(range(20), key=first.__getitem__) != sorted(range(20), key=second.__getitem__)


@pytest.mark.parametrize("asked", [30.0, 120.0, 3000.0])
@pytest.mark.parametrize("attempt", [1, 2, 7])
def test_a_wait_that_a_server_asked_for_is_spread_by_up_to_its_own_length(asked, attempt):
    waits = [delay(f"device {number}", "certs", attempt, asked) - asked for number in range(2000)]
    spread = max(60.0, asked)
    assert min(waits) < 0.03 * spread
    assert 0.97 * spread < max(waits) <= spread


# In line


DELAYS = Limits().retry_delays
ASKED = st.none() | st.floats(0, 2 * MAX_ASKED)


@QUICK
@given(ASKED, st.integers(0, 10), st.floats(0, 200), st.randoms())
def test_nobody_waits_in_line_longer_than_the_call_may_take_nor_less_than_was_asked(asked, retry, remaining, draw):
    turn = in_line(asked, DELAYS, retry, remaining, draw)
    if turn.delay is None:
        assert not asked
        assert retry >= len(DELAYS)
    else:
        assert turn.delay >= (asked or 0.0)
    if turn.wait is not None:
        assert turn.delay <= turn.wait <= remaining


def test_a_wait_that_leaves_no_time_to_spread_it_is_left_to_a_later_call():
    assert in_line(120.0, DELAYS, 0, 120.0) == Turn(120.0)
    assert in_line(61.0, DELAYS, 0, 120.0) == Turn(61.0)
    waits = [in_line(60.0, DELAYS, 0, 120.0).wait for _ in range(1000)]
    assert min(waits) < 63
    assert max(waits) > 117


def test_a_server_that_asks_for_nothing_is_asked_again_after_delays_of_our_own():
    assert [in_line(0.0, DELAYS, retry, 1000.0).delay for retry in range(6)] == [*DELAYS, None]
    assert [in_line(None, DELAYS, retry, 1000.0).delay for retry in range(6)] == [*DELAYS, None]
    assert in_line(7.0, DELAYS, 0, 1000.0).delay == 7.0
    assert in_line(7.0, DELAYS, 4, 1000.0).delay == 30.0
    assert in_line(7.0, DELAYS, 5, 1000.0).delay == 7.0
