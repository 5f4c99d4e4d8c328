"""The simulated fleet: every device is done, nobody comes back too soon, and our policy asks for less."""

from pathlib import Path

import pytest

from tests.fleet.simulation import Naive, Ours, Server, simulate


@pytest.mark.parametrize("policy", [Ours(), Naive()], ids=["ours", "naive"])
def test_every_device_is_done_by_a_server_of_limited_capacity(policy):
    outcome = simulate(policy, devices=200, within=1.0, server=Server(capacity=2))
    assert len(outcome.done) == 200
    assert outcome.done == sorted(outcome.done)
    assert outcome.total >= 200


def test_nobody_comes_back_before_retry_after():
    server = Server(capacity=1, retry_after=100.0)
    outcome = simulate(Ours(), devices=50, within=1.0, server=server)
    assert sum(outcome.requests[second] for second in range(2, 100)) == 0


@pytest.fixture(scope="module")
def documented():
    """Give what docs/fleet.md shows: ten thousand devices, with our policy and without."""
    return simulate(Ours()), simulate(Naive())


def test_after_the_first_minute_ten_thousand_ask_less_at_once_and_less_often_than_without_our_policy(documented):
    ours, naive = documented
    assert ours.peak == naive.peak  # nobody has been told to wait yet
    assert ours.later_peak < 0.7 * naive.later_peak
    assert ours.total < 0.7 * naive.total
    assert ours.done[-1] < naive.done[-1]


def test_the_documentation_shows_what_is_simulated(documented):
    text = (Path(__file__).parents[3] / "docs/fleet.md").read_text()
    for name, of in (
        ("requests", lambda outcome: f"{outcome.total:,}"),
        ("busiest second of the first minute, requests", lambda outcome: str(outcome.peak)),
        ("busiest second after it, requests", lambda outcome: str(outcome.later_peak)),
        ("half of the devices done, minutes", lambda outcome: f"{outcome.share_done(0.5) / 60:.1f}"),
        ("99 % done, minutes", lambda outcome: f"{outcome.share_done(0.99) / 60:.1f}"),
        ("last device done, minutes", lambda outcome: f"{outcome.done[-1] / 60:.1f}"),
    ):
        assert "| " + " | ".join([name, *map(of, documented)]) + " |" in text


def test_nobody_waits_in_line_for_what_leaves_no_time_to_spread(documented):
    ours, _ = documented
    told, retry_after = 60, 120
    returned = [ours.requests[second] for second in range(retry_after, 2 * retry_after + told)]
    assert max(returned) < 2 * sum(returned) / len(returned)


def test_devices_that_were_refused_together_do_not_come_back_together():
    naive, ours = (
        simulate(policy, devices=1000, within=1.0, server=Server(capacity=2)) for policy in (Naive(), Ours())
    )
    later = {
        name: max(rate for second, rate in each.requests.items() if second > 60)
        for name, each in {"naive": naive, "ours": ours}.items()
    }
    assert later["ours"] < later["naive"] / 10
    assert ours.total < naive.total
