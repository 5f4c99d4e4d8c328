"""The documents, the code and its messages are in plain English: stock phrases that nobody writes are gone."""

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
FOLDERS = ("docs", "handler", "hsm", "packaging", "systemd", "tests")
STOCK = [
    *(
        "anew",
        "as long again",
        "beside that",
        "has it begun",
        "done without",
        "stand over",
        "stands over",
        "that which",
    ),
    *("who asks is told", "whoever"),
]
BETWEEN = r"[\s#*|_]+"
"""What may be between two words: the end of a line, the mark of a comment or table in the next one, `_` in a name."""


def texts():
    """Give every file that people read or write, except this list."""
    files = [path for folder in FOLDERS for path in (REPOSITORY / folder).rglob("*")]
    for path in sorted([*REPOSITORY.glob("*.md"), REPOSITORY / "Makefile", REPOSITORY / "pyproject.toml", *files]):
        if path.is_file() and path != Path(__file__) and "__pycache__" not in path.parts:
            try:
                yield path.relative_to(REPOSITORY), path.read_text(encoding="utf-8")
            except UnicodeDecodeError:  # a picture, recorded bytes
                continue


def places(phrase, text):
    """Give the numbers of the lines that a phrase begins in."""
    words = re.compile(rf"(?<![a-z]){BETWEEN.join(phrase.split())}(?![a-z])", re.IGNORECASE)
    return [text.count("\n", 0, found.start()) + 1 for found in words.finditer(text)]


@pytest.mark.parametrize("phrase", STOCK)
def test_a_stock_phrase_is_nowhere(phrase):
    found = [f"{path}:{line}" for path, text in texts() for line in places(phrase, text)]
    assert found == []


@pytest.mark.parametrize(
    "text", ["It is\n# done without.", "x\nIs done\n    without", "def test_it_is_done_without(): "]
)
def test_a_phrase_is_found_over_the_end_of_a_line(text):
    assert len(places("done without", text)) == 1


def test_a_word_within_another_one_is_no_phrase():
    assert places("anew", "renew, planewise, anewer") == []
    assert places("whoever", "test_whoever_asks") == [1]


def test_every_folder_is_read():
    read = {path.parts[0] for path, _ in texts()}
    assert {*FOLDERS, "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "Makefile"} <= read
