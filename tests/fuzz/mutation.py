"""What a fuzzer feeds: real input, spoilt in a few places. hypothesis makes what it finds small."""

from dataclasses import dataclass
from typing import Literal

from hypothesis import strategies as st

NASTY = (
    b"",
    b"\0",
    b"\xff" * 4,
    b"1e999",
    b"-1e999",
    b"NaN",
    b"9" * 5000,
    b"[" * 2000,
    b'{"a":' * 1000,
    b'"\\ud800"',
    b"null",
    b"true",
    b"[]",
    b"{}",
    b'""',
    b"\r\n",
    b"\x1b[2J",
    "\u202e".encode(),
    b"\x30\x80",  # DER: of an indefinite length
    b"\x30\x84\xff\xff\xff\xff",
    b"\x06\x20" + b"\xff" * 31 + b"\x7f",  # an arc of 31 bytes
    b"\xa0\x82\x10\x00",
    b"\x00 {}\n",
    b"[[a]]\n",
    b"a.b.c = 1\n",
    b'"""',
    b"A" * 10_000,
    *(bytes([each]) for each in b"\\\"'#,=.: \t\n0"),
    b'\\"',
    "e\u0301".encode(),
)
FLOOD = 30_000
"""Bytes of a flood: what takes the square of its size shows."""


@dataclass(frozen=True)
class Edit:
    """One change at a place, a share of the whole in thousandths."""

    kind: Literal["insert", "replace", "remove", "flip", "repeat", "flood", "cut"]
    at: int
    length: int
    what: bytes

    def apply(self, data: bytes) -> bytes:
        at = len(data) * self.at // 1000
        before, part, after = data[:at], data[at : at + self.length], data[at + self.length :]
        changed = {
            "insert": self.what + part,
            "replace": self.what,
            "remove": b"",
            "flip": bytes(each ^ (1 << self.length % 8) for each in part[:1]) + part[1:],
            "repeat": part * 3,
            "flood": _flood((part + self.what)[:64]),
            "cut": part,
        }[self.kind]
        return before + changed + (b"" if self.kind == "cut" else after)


def _flood(part: bytes) -> bytes:
    return part * (FLOOD // len(part)) if part else b""


EDITS = st.builds(
    Edit,
    st.sampled_from(("insert", "replace", "remove", "flip", "repeat", "flood", "cut")),
    st.integers(0, 1000),
    st.integers(0, 64),
    st.one_of(st.sampled_from(NASTY), st.binary(max_size=16)),
)


def spoilt(seeds: list[bytes]) -> st.SearchStrategy[bytes]:
    """Give one of the seeds, spoilt in up to six places; now and then anything at all."""
    edited = st.builds(_edited, st.sampled_from(seeds), st.lists(EDITS, max_size=6))
    return st.one_of(edited, edited, edited, st.binary(max_size=200))


def _edited(data: bytes, edits: list[Edit]) -> bytes:
    for edit in edits:
        data = edit.apply(data)
    return data
