"""JSON from others, with limits on depth and numbers."""

import json
import math
import re
from typing import Any, NoReturn

MAX_DEPTH = 64
"""Of nested maps and lists."""
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*+"?|[][{}]', re.DOTALL)  # a text without an end is looked through once


def loads(data: bytes) -> Any:  # noqa: ANN401
    """Read a JSON text (RFC 8259, UTF-8). Raises ValueError, also for numbers that JSON cannot express.

    A repeated key has its last value, as in Go: null leaves a text, a number or a truth value as it is.
    """
    depth = 0
    for found in _TOKEN.finditer(data):
        token = found[0]
        if token in {b"[", b"{"}:
            depth += 1
            if depth > MAX_DEPTH:
                raise ValueError(f"it nests more than {MAX_DEPTH} maps and lists")
        elif token in {b"]", b"}"}:
            depth -= 1
    text = data.decode("utf-8-sig")  # UTF-16 hides brackets
    return json.loads(text, parse_constant=_no_json, parse_float=_finite, parse_int=_finite, object_pairs_hook=_object)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        before = found.pop(name, None)  # the order of different names for one field counts too
        found[name] = before if value is None and isinstance(before, str | int | float) else value
    return found


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]} is larger than a number can be")
    return int(text) if text.lstrip("-").isdecimal() else number


def _no_json(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
