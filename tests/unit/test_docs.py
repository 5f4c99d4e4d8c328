"""What the documents name exists."""

import ast
import ctypes
import errno
import os
import re
from pathlib import Path

import pkcs11.exceptions
import pytest

from tests.tokens import KINDS, table

DOCS = Path(__file__).parents[2] / "docs"
TESTS = Path(__file__).parents[1]


@pytest.mark.parametrize("document", sorted(path.name for path in DOCS.glob("*.md")))
def test_every_test_that_a_document_names_is_there(document):
    for file, name in re.findall(r"`(?:tests/)?([\w/]+\.py)::(\w+)`", (DOCS / document).read_text()):
        assert f"\ndef {name}(" in (TESTS / file).read_text(), f"{document}: {file}::{name}"


FOR_PEOPLE = re.compile(
    r"(Refused|Pending|Offline|Postponed|Clock|Busy|Absent|Module|Pin|Missing|Conflict|Unsupported|Handles|Token)Error$"
    r"|refusal$|\.warning$"
)
TEXT = "\ufffc"
"""Stands for what differs from one message to the next."""


def patterns():
    """Give what the rows explain, as regular expressions."""
    rows = re.findall(r"^\| (`.*?) \|", (DOCS / "troubleshooting.md").read_text(), re.MULTILINE)
    explained = [text for row in rows for text in re.findall(r"`([^`]+)`", row)]
    return {text: re.compile(".*".join(map(re.escape, re.split(r" ?… ?", text)))) for text in explained}


def text_of(node):
    """Give the text of a string in the source, whatever its form."""
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else TEXT for part in node.values)
    return re.sub("%[a-z0-9.]*[a-z]", TEXT, node.value) if isinstance(node.value, str) else ""


def texts():
    """Give every text in the program's source, with the name of the call that it is the first argument of."""
    for folder in ("handler", "hsm"):
        for path in sorted((DOCS.parent / folder).rglob("*.py")):
            tree = ast.parse(path.read_text())
            firsts = {
                id(node.args[0]): ast.unparse(node.func)
                for node in ast.walk(tree)
                if isinstance(node, ast.Call) and node.args
            }
            for node in ast.walk(tree):
                if isinstance(node, ast.JoinedStr | ast.Constant) and (text := text_of(node)):
                    yield f"{path.relative_to(DOCS.parent)}:{node.lineno}", firsts.get(id(node), ""), text


def words_of_others():
    """Give what the system, PKCS#11 modules, OpenSSL, curl and fioconfig say of the same faults."""
    library = ctypes.CDLL(None)
    library.gai_strerror.restype = ctypes.c_char_p
    modules = [name for name in dir(pkcs11.exceptions) if name[0].isupper()]
    return [
        *map(os.strerror, errno.errorcode),
        *(library.gai_strerror(number).decode() for number in range(-12, 0)),
        *modules,
        *("CKR" + re.sub("(?=[A-Z])", "_", name).upper() for name in modules),
        "certificate verify failed",
        "x509: certificate signed by unknown authority",
        "remote error: tls: bad certificate",
        "certificate has expired",
    ]


def test_every_message_that_is_explained_is_one_of_the_program():
    said = "\n".join([*(text for _, _, text in texts()), *words_of_others()])
    assert len(patterns()) > 100
    assert [text for text, pattern in patterns().items() if not pattern.search(said)] == []


@pytest.mark.parametrize(
    "message",
    [
        *map(
            os.strerror, (errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ETIMEDOUT, errno.ECONNRESET)
        ),
        *map(os.strerror, (errno.ENOSPC, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM)),
        *("Name or service not known", "Temporary failure in name resolution", "certificate verify failed"),
        *("CKR_PIN_INCORRECT", "PinIncorrect", "CKR_PIN_LOCKED", "CKR_TOKEN_NOT_PRESENT"),
    ],
)
def test_the_most_common_messages_are_found_literally_and_first(message):
    first = (DOCS / "troubleshooting.md").read_text().split("\n## ")[1]
    assert f"`{message}`" in first


def test_every_message_that_a_person_may_meet_is_explained():
    found = [
        (place, text)
        for place, call, text in texts()
        # What is only passed on is explained where it is said.
        if FOR_PEOPLE.search(call) and text.replace(TEXT, "").strip(" ;:().,")
    ]
    assert len(found) > 100
    assert [each for each in found if not any(pattern.search(each[1]) for pattern in patterns().values())] == []


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
