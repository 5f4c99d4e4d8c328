"""The table of rules: every combination of what can be found has one answer, and the documentation shows it."""

from pathlib import Path

from handler.rotation.found import Named
from handler.rotation.rules import Action, next_action

from .table import as_markdown, possible, why_impossible

ARCHITECTURE = Path(__file__).parents[3] / "docs" / "architecture.md"


def test_every_combination_is_answered_by_a_row_or_named_as_impossible():
    count = 0
    for found in possible():
        count += 1
        action = next_action(found)
        assert not (action in {Action.DROP, Action.KEEP} and found.named is not Named.OLD), found
        assert not (action is Action.DROP and found.shown), f"the gateway may take it: {found}"
        if count % 100 == 0:
            assert why_impossible(found) is None
    assert count > 50_000


def test_the_documentation_shows_the_table():
    text = ARCHITECTURE.read_text()
    assert as_markdown() in text
