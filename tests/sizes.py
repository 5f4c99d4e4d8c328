"""Holds modules, functions and folders to a size that a reader can take in.

    python -m tests.sizes

A function counts from its `def` to its last line, with its docstring. Prints what is too large; exit status 1 then.
"""

import ast
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROGRAM, TESTS = ("handler", "hsm"), ("tests",)
MOST_LINES = dict.fromkeys(PROGRAM, 300) | dict.fromkeys(TESTS, 500)
MOST_IN_FUNCTION = dict.fromkeys(PROGRAM, 50) | dict.fromkeys(TESTS, 80)
MOST_MODULES = 12
"""In a folder of handler/, `__init__.py` not counted."""
MOST_IN_ALL = 15_300
"""Lines of handler/ and hsm/."""


def too_large():
    """Name everything that is too large."""
    folders, in_all = Counter(), 0
    for top in (*PROGRAM, *TESTS):
        for path in sorted((ROOT / top).rglob("*.py")):
            text, name = path.read_text(), path.relative_to(ROOT)
            lines = text.count("\n")
            in_all += lines * (top in PROGRAM)
            if lines > MOST_LINES[top]:
                yield f"{name}: {lines} lines, at most {MOST_LINES[top]}"
            if top == "handler" and path.name != "__init__.py":
                folders[name.parent] += 1
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    length = (node.end_lineno or node.lineno) - node.lineno + 1
                    if length > MOST_IN_FUNCTION[top]:
                        yield f"{name}:{node.lineno}: {node.name} has {length} lines, at most {MOST_IN_FUNCTION[top]}"
    yield from (
        f"{folder}: {count} modules, at most {MOST_MODULES}"
        for folder, count in folders.items()
        if count > MOST_MODULES
    )
    if in_all > MOST_IN_ALL:
        yield f"handler and hsm: {in_all} lines, at most {MOST_IN_ALL}"


if __name__ == "__main__":
    found = list(too_large())
    for each in found:
        print(each)
    sys.exit(bool(found))
