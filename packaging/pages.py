"""Renders the documents and the manual page as HTML: packaging/pages.py FOLDER. `make docs` calls it."""

import html
import itertools
import re
import shutil
import subprocess
import sys
from pathlib import Path

from manual import page as manual_page
from markdown_it import MarkdownIt
from markdown_it.token import Token

REPOSITORY = Path(__file__).resolve().parents[1]
MARKDOWN = MarkdownIt("commonmark").enable("table")
FIRST = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")
MANUAL = "renew-client-cert.8"
STYLE = """body { font: 16px/1.5 sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse } td, th { border: 1px solid #ccc; padding: .3em .6em; text-align: left }
td { vertical-align: top } pre { background: #f5f5f5; padding: .8em; overflow-x: auto } img { max-width: 100% }
code { background: #f5f5f5; overflow-wrap: anywhere }"""


def documents() -> list[Path]:
    """List the documents, relative to the repository, the README first."""
    return [*map(Path, FIRST), *sorted(path.relative_to(REPOSITORY) for path in (REPOSITORY / "docs").glob("*.md"))]


def parsed(document: Path) -> list[Token]:
    """Parse a document; its headings get the anchors that GitHub gives them."""
    tokens = MARKDOWN.parse((REPOSITORY / document).read_text(encoding="utf-8"))
    names: list[str] = []
    for start, inline in itertools.pairwise(tokens):
        if start.type == "heading_open":
            words = "".join(each.content for each in inline.children or ())
            names.append(re.sub(r"[^\w -]", "", words.lower()).replace(" ", "-"))
            again = names.count(names[-1]) - 1
            start.attrSet("id", f"{names[-1]}-{again}" if again else names[-1])
    return tokens


def write(target: Path, title: str, body: str) -> None:
    """Write a page."""
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{STYLE}</style>'
    page = f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head><body>\n{body}\n</body></html>\n'
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(page, encoding="utf-8")


def render(folder: Path) -> None:
    """Write each document below `folder`, with the files that it links to; the manual page; and index.html."""
    rows = [f'<li><a href="{MANUAL}.html">{MANUAL}</a>: the manual page</li>']
    for document in documents():
        tokens = parsed(document)
        for token in (child for each in tokens for child in each.children or ()):
            name = {"link_open": "href", "image": "src"}.get(token.type, "")
            link = str(token.attrs.get(name, ""))
            path, anchor, where = link.partition("#")
            if path.endswith(".md") and "://" not in path:
                token.attrSet(name, f"{path.removesuffix('.md')}.html{anchor}{where}")
            elif path and "://" not in path:
                copy = folder / document.parent / path
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(REPOSITORY / document.parent / path, copy)
        title, page = tokens[1].content, document.with_suffix(".html")
        write(folder / page, title, MARKDOWN.renderer.render(tokens, MARKDOWN.options, {}))
        rows.append(f'<li><a href="{page}">{document}</a>: {html.escape(title)}</li>')
    manual = subprocess.run(["mandoc", "-Thtml"], input=manual_page("/usr"), capture_output=True, text=True, check=True)
    (folder / f"{MANUAL}.html").write_text(manual.stdout, encoding="utf-8")
    write(folder / "index.html", "renew-client-cert", f"<h1>renew-client-cert</h1>\n<ul>{''.join(rows)}</ul>")


if __name__ == "__main__":
    render(Path(sys.argv[1]))
