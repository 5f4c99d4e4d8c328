"""What `make docs` renders: every link and every command in it leads somewhere."""

import contextlib
import re
import shlex
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from handler.console.arguments import parse

REPOSITORY = Path(__file__).parents[3]
DOCUMENTS = [*REPOSITORY.glob("*.md"), *sorted((REPOSITORY / "docs").glob("*.md"))]


class Page(HTMLParser):
    """The links and anchors of a page."""

    def __init__(self, path):
        super().__init__()
        self.links, self.anchors = [], set()
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.links += [given[name] for name in ("href", "src") if name in given]
        self.anchors.add(given.get("id"))


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    folder = tmp_path_factory.mktemp("docs")
    command = [sys.executable, "packaging/pages.py", folder]
    subprocess.run(command, cwd=REPOSITORY, env={"PYTHONPATH": ".", "PATH": "/usr/bin:/bin"}, check=True)
    return folder


def test_every_link_leads_to_a_page_and_an_anchor_in_it(rendered):
    pages = {path: Page(path) for path in rendered.rglob("*.html")}
    assert len(pages) == len(DOCUMENTS) + 2
    for path, page in pages.items():
        for link in page.links:
            target, _, anchor = link.partition("#")
            if "://" not in target:
                there = (path.parent / target).resolve() if target else path
                assert there.is_file(), f"{path.name}: {link}"
                assert not anchor or anchor in pages[there].anchors, f"{path.name}: {link}"


def test_every_page_is_in_the_index(rendered):
    pages = {str(path.relative_to(rendered)) for path in rendered.rglob("*.html")} - {"index.html"}
    assert set(Page(rendered / "index.html").links) == pages


def test_a_document_is_rendered_with_its_tables_and_code(rendered):
    page = (rendered / "docs/reference.html").read_text()
    assert page.count("<table>") == page.count("<thead>") > 4
    assert "<td>78</td>" in page
    assert '<h2 id="exit-statuses">' in page
    manual = (rendered / "renew-client-cert.8.html").read_text()
    assert "EXIT" in manual
    assert "--est-server" in manual.replace("&#x2011;", "-").replace("\u2011", "-")


COMMAND = re.compile(r"(?:ExecStart=|sudo |\$ )?((?:[A-Z_]+=\S* )*)([\w/.-]*/)?((?:make|renew-client-cert) .*)")


def commands(document):
    """Give the words of each command line in a document's code, without what precedes the command."""
    text = document.read_text()
    if document.name == "troubleshooting.md":
        text = re.sub(r"^\| `.*? \|", "|", text, flags=re.MULTILINE)  # messages
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    for token in [*tokens, *(child for each in tokens for child in each.children or ())]:
        if token.type in {"fence", "code_block", "code_inline"}:
            for line in token.content.replace("\\\n", " ").splitlines():
                for part in re.split(r" \\?\| | && |; ", line):
                    if (found := COMMAND.fullmatch(part.strip())) and "…" not in part:
                        yield shlex.split(found[3], comments=True)


def test_there_are_commands_to_try():
    found = [words for document in DOCUMENTS for words in commands(document)]
    assert len([words for words in found if words[0] == "make"]) > 20
    assert len([words for words in found if words[0] != "make"]) > 20


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_target_and_variable_of_make_is_there(document):
    makefile = (REPOSITORY / "Makefile").read_text()
    targets = {word for line in re.findall(r"^([\w -]+):(?!=)", makefile, re.MULTILINE) for word in line.split()}
    for words in commands(document):
        if words[0] == "make":
            for word in words[1:]:
                variable, given, _ = word.partition("=")
                assert re.search(rf"\b{variable}\b", makefile) if given else word in targets, f"make {word}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_line_of_the_program_is_one_that_it_takes(document, capsys):
    for words in commands(document):
        if words[0] != "make":
            with contextlib.suppress(SystemExit):
                parse(words[1:], by_fioconfig=True)
            assert capsys.readouterr().err == "", words
