"""The rules keep a device whole in every history within bounds; rules that are wrong do not."""

import pytest

from handler.rotation.rules import TABLE
from tests.unit.rotation.table import why_impossible

from .explorer import Explorer
from .faults import DEEP, FAULTS
from .starts import STARTS
from .world import REFUSES, TAKES

BOUNDS = {TAKES: 2, REFUSES: 2}
"""Faults on a path, by what the gateway does; one where it does what is rarer, or where fioconfig left the rotation."""


@pytest.mark.parametrize("start", STARTS, ids=lambda start: f"{start.gateway}, {start.foreign}")
def test_the_rules_lose_nothing_and_come_to_rest(start):
    """`make test-model` goes further."""
    faults = 1 if start.foreign else BOUNDS.get(start.gateway, 1)
    result = Explorer(faults, 1).run([start])
    print(result.line(faults, 1))
    assert result.stories[:1] == []
    assert result.states > 100
    assert result.transitions > 1000


def test_each_row_is_needed_and_nothing_is_found_that_is_named_as_impossible():
    found = Explorer(1, 1).run(STARTS).found
    assert [(each, why) for each in found if (why := why_impossible(each))] == []
    first = {id(next(row for row in TABLE if row.matches(each))) for each in found}
    assert [row.words for row in TABLE if id(row) not in first] == []


@pytest.mark.parametrize("name", FAULTS)
def test_a_rule_that_is_wrong_is_found(name):
    table, actions = FAULTS[name]
    everywhere = [(faults, start) for faults in (0, 1, 2) for start in range(len(STARTS))]
    tries = (
        Explorer(faults, 1, table=table, actions=actions, first=True).run([STARTS[start]]).stories
        for faults, start in (DEEP.get(name, (0, 0)), *everywhere)
    )
    story = next(found[0] for found in tries if found)
    print(f"{name}:\n{story}")
    assert story.splitlines()[-1].startswith("BROKEN: ")
