"""What the documents name exists."""

import re
from pathlib import Path

import pytest

from tests.tokens import KINDS, table

DOCS = Path(__file__).parents[2] / "docs"
TESTS = Path(__file__).parents[1]


@pytest.mark.parametrize("document", sorted(path.name for path in DOCS.glob("*.md")))
def test_every_test_that_a_document_names_is_there(document):
    for file, name in re.findall(r"`(?:tests/)?([\w/]+\.py)::(\w+)`", (DOCS / document).read_text()):
        assert f"\ndef {name}(" in (TESTS / file).read_text(), f"{document}: {file}::{name}"


@pytest.mark.parametrize("document", [*(DOCS.glob("*.md")), DOCS.parent / "README.md"], ids=lambda path: path.name)
def test_every_link_to_a_file_leads_somewhere(document):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text()):
        assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_every_message_that_is_explained_is_one_of_the_program():
    sources = [path.read_text() for folder in ("handler", "hsm") for path in (DOCS.parent / folder).glob("*.py")]
    # As the program says it: pieces of a text that stands on several lines are joined.
    code = re.sub(r"\"\s*\n\s*f?\"", "", "\n".join(sources))
    rows = re.findall(r"^\| `([^`]+)`", (DOCS / "troubleshooting.md").read_text(), re.MULTILINE)
    assert len(rows) > 25
    assert [message for message in rows if message not in code] == []


def test_every_cell_of_the_token_table_names_tests_that_run_with_that_token():
    collected = table.collected()
    named = {name for row in table.ROWS for proof in row.proofs for name in proof.tests}
    assert named == set(collected)
    for row in table.ROWS:
        for kind in KINDS:
            proof = row.proof(kind)
            if proof:
                assert [name for name in proof.tests if kind not in collected[name]] == [], (row.what, kind)
            else:
                assert kind == "spy", row.what
    assert [row.what for row in table.ROWS] == list(table.rows_written()), "make tokens"
