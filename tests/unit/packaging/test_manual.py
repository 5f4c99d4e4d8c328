"""The manual page: every command and option, each thing once, nothing that a formatter complains of."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from handler.console.arguments import make_parser

REPOSITORY = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Give the page as it is shown at 80 columns."""
    command = [sys.executable, "packaging/manual.py", "/usr"]
    roff = subprocess.run(command, cwd=REPOSITORY, env={"PYTHONPATH": "."}, capture_output=True, check=True).stdout
    file = tmp_path_factory.mktemp("manual") / "page.8"
    file.write_bytes(roff)
    shown = subprocess.run(
        ["man", "--warnings", "--no-hyphenation", "--no-justification", file],
        env={"LC_ALL": "C", "MANWIDTH": "80", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stderr == ""
    assert "@" not in shown.stdout
    return shown.stdout


def section(page, name):
    (text,) = re.findall(rf"^{name}\n(.*?)(?=^\S)", page, re.MULTILINE | re.DOTALL)
    return text


def test_the_sections_come_in_the_order_of_man_pages(page):
    assert re.findall(r"^[A-Z][A-Z ]+$", page, re.MULTILINE) == [
        *("NAME", "SYNOPSIS", "DESCRIPTION", "COMMANDS", "OPTIONS", "EXAMPLES", "EXIT STATUS", "ENVIRONMENT"),
        *("FILES", "SERVICES", "SEE ALSO"),
    ]


def test_each_command_says_first_what_it_does(page):
    (subparsers,) = (each for each in make_parser()._actions if each.nargs == "A...")
    described = re.split(r"^   (\w+)\n", section(page, "COMMANDS"), flags=re.MULTILINE)[1:]
    assert described[::2] == list(subparsers.choices)
    for name, text in zip(described[::2], described[1::2], strict=True):
        assert " ".join(text.split()).startswith(subparsers.choices[name].does)


def test_common_options_and_exit_statuses_are_there_once(page):
    for option in ("--storage-dir", "--sota", "--verbose", "--quiet"):
        assert len(re.findall(rf"^ +(-\w, )?{option}\b", page, re.MULTILINE)) == 1
    reference = (REPOSITORY / "docs/reference.md").read_text().split("## Exit statuses")[1].split("\n## ")[0]
    assert re.findall(r"^ {7}(\d+) ", section(page, "EXIT STATUS"), re.MULTILINE) == re.findall(
        r"^\| (\d+) \|", reference, re.MULTILINE
    )


def test_every_example_is_a_command_line_that_the_program_takes(page):
    examples = [line.split() for line in section(page, "EXAMPLES").splitlines() if " renew-client-cert " in line]
    assert len(examples) > 5
    for _, *words in examples:
        assert make_parser().parse_args(words).command == words[0]
