"""The rules keep a device whole in every history within bounds; rules that are wrong do not."""

import pytest

from .explorer import Explorer
from .faults import FAULTS
from .starts import EXPECTED, STARTS

BOUNDS = {"faults": 2, "changes": 1}


def test_the_rules_lose_nothing_and_come_to_rest():
    result = Explorer(**BOUNDS).run(STARTS)
    print(result.line(**BOUNDS))
    assert result.stories[:1] == []
    assert result.states > 1000
    assert result.transitions > 100_000


@pytest.mark.parametrize("name", FAULTS)
def test_a_rule_that_is_wrong_is_found(name):
    table, actions = FAULTS[name]
    (story,) = Explorer(**BOUNDS, table=table, actions=actions, first=True).run(STARTS).stories
    print(f"{name}:\n{story}")
    assert story.splitlines()[-1].startswith("BROKEN: ")


@pytest.mark.parametrize("name", EXPECTED)
def test_what_the_rules_are_known_to_lose_is_found(name):
    stories = Explorer(**BOUNDS).run((EXPECTED[name],)).stories
    assert [each for each in stories if "certificate alone, and its key is gone" in each.splitlines()[-1]]
