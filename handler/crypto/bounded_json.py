"""JSON from others, with limits on depth and numbers."""

import json
import math
import re
from typing import Any, NoReturn

MAX_DEPTH = 64
"""Of nested maps and lists."""
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*+"?|[][{}]', re.DOTALL)  # a text without an end is looked through once


def loads(data: bytes) -> Any:  # noqa: ANN401
    """Read a JSON text (RFC 8259, UTF-8). Raises ValueError, also for numbers that JSON cannot express."""
    depth = 0
    for found in _TOKEN.finditer(data):
        token = found[0]
        if token in {b"[", b"{"}:
            depth += 1
            if depth > MAX_DEPTH:
                raise ValueError(f"it nests more than {MAX_DEPTH} maps and lists")
        elif token in {b"]", b"}"}:
            depth -= 1
    return json.loads(data.decode("utf-8-sig"), parse_constant=_no_json, parse_float=_finite)  # UTF-16 hides brackets


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]} is larger than a number can be")
    return number


def _no_json(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
