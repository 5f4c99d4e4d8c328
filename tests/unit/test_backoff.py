"""When the daemon tries again: never too soon, never too late, and every device at a time of its own."""

from hypothesis import given, settings
from hypothesis import strategies as st

from handler.backoff import MAX_ASKED, Backoff, delay

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
