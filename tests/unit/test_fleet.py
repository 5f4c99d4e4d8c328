"""The simulated fleet: every device is done, nobody comes back too soon, and our policy asks for less."""

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
