"""The table of rules: every combination of what can be found has one answer, and no row is dead."""

import itertools
from enum import Enum
from pathlib import Path
from typing import get_type_hints

from handler.rotation.rules import FIELDS, TABLE, Action, Found, Named, as_markdown, next_action, why_impossible
from tests.model.explorer import Explorer
from tests.model.starts import STARTS

ARCHITECTURE = Path(__file__).parents[3] / "docs" / "architecture.md"


def combinations():
    """Give every combination of what can be found."""
    kinds = get_type_hints(Found)
    values = [list(kinds[name]) if issubclass(kinds[name], Enum) else [False, True] for name in FIELDS]
    for each in itertools.product(*values):
        yield Found(*each)


def test_every_combination_is_answered_by_a_row_or_named_as_impossible():
    answered = impossible = 0
    for found in combinations():
        if why_impossible(found):
            impossible += 1
            continue
        answered += 1
        action = next_action(found)
        if action is Action.DROP:
            assert found.named is Named.OLD, f"what is in use would be destroyed: {found}"
    assert answered > 10_000
    assert impossible > answered


def test_no_row_is_dead_and_the_model_finds_nothing_that_is_named_as_impossible():
    explorer = Explorer(faults=2, changes=1)
    found = explorer.run(STARTS).found
    assert [(each, why) for each in found if (why := why_impossible(each))] == []
    first = {id(next(row for row in TABLE if row.matches(each))) for each in found}
    assert [row.words for row in TABLE if id(row) not in first] == []


def test_the_documentation_shows_the_table():
    text = ARCHITECTURE.read_text()
    assert as_markdown() in text
