"""ASN.1, read within bounds, and the little of it that is written (X.690).

Read leniently, as OpenSSL does: a length may be longer than necessary or indefinite (BER, which BouncyCastle writes).
Only what is asked for is parsed: each level costs one pass over its bytes.
"""

from collections.abc import Iterator
from typing import NamedTuple

BOOLEAN, INTEGER, BIT_STRING, OCTET_STRING, NULL, OID = 1, 2, 3, 4, 5, 6
UTC_TIME = 0x17
SEQUENCE, SET, CONTEXT_0, CONTEXT_1, CONTEXT_3 = 0x30, 0x31, 0xA0, 0xA1, 0xA3

MAX_ITEMS = 32_768  # in one element
MAX_DEPTH = 32
"""Of nested elements of indefinite length."""
MAX_OID = 64
"""Bytes of an object identifier; the longest in use have about 30."""
MAX_ARC = 1 << 128
"""An arc is smaller; those made of a UUID (X.667) are the largest."""
_CONSTRUCTED, _LONG_TAG, _LONG_LENGTH = 0x20, 0x1F, 0x80
_LENGTH_BYTES = 8


class Element(NamedTuple):
    """One element: `tag` is its first byte, `encoded` all of it."""

    tag: int
    content: bytes
    encoded: bytes

    @property
    def items(self) -> list["Element"]:
        """The elements in this one. Raises ValueError."""
        return list(elements(self.content))


def elements(data: bytes) -> Iterator[Element]:
    """Iterate over consecutive elements. Raises ValueError at the first bytes that are none."""
    position = count = 0
    while position < len(data):
        count += 1
        if count > MAX_ITEMS:
            raise ValueError(f"more than {MAX_ITEMS} elements in one")
        begin, end, after = _extent(data, position, 0)
        yield Element(data[position], data[begin:end], data[position:after])
        position = after


def one(data: bytes, tag: int | None = None) -> Element:
    """Return the only element of `data`, of that tag. Raises ValueError for anything else."""
    found = first(data)
    if len(found.encoded) != len(data) or tag not in {None, found.tag}:
        raise ValueError(f"expected one element{'' if tag is None else f' of tag {tag:02x}'}")
    return found


def first(data: bytes) -> Element:
    """Return the element that `data` begins with. Raises ValueError."""
    begin, end, after = _extent(data, 0, 0)
    return Element(data[0], data[begin:end], data[:after])


def _extent(data: bytes, position: int, depth: int) -> tuple[int, int, int]:
    """Return the begin and end of the content of the element at `position`, and the end of the element."""
    if depth > MAX_DEPTH:
        raise ValueError(f"more than {MAX_DEPTH} elements in each other")
    try:
        tag, begin = data[position], position + 1
        if tag & _LONG_TAG == _LONG_TAG:
            while data[begin] & 0x80:
                begin += 1
            begin += 1
        length, begin = data[begin], begin + 1
    except IndexError:
        raise ValueError("it is cut off") from None
    if length == _LONG_LENGTH and tag & _CONSTRUCTED:
        end = begin
        while data[end : end + 2] != b"\0\0":
            end = _extent(data, end, depth + 1)[2]
        return begin, end, end + 2
    if length & _LONG_LENGTH:
        size = length & 0x7F
        if not 0 < size <= _LENGTH_BYTES:
            raise ValueError(f"a length of {size} bytes")
        length, begin = int.from_bytes(data[begin : begin + size]), begin + size
    if begin + length > len(data):
        raise ValueError("it is cut off")
    return begin, begin + length, begin + length


def dotted(content: bytes) -> str:
    """Return an object identifier as text: `1.2.840.10045.2.1`. Raises ValueError."""
    if not content or len(content) > MAX_OID or content[-1] & 0x80:
        raise ValueError(f"no object identifier: {content[:MAX_OID].hex()}")
    arcs, arc = [], 0
    for byte in content:
        arc = arc << 7 | byte & 0x7F
        if not byte & 0x80:
            arcs.append(arc)
            arc = 0
    if max(arcs) >= MAX_ARC:
        raise ValueError(f"no object identifier: {content.hex()}")
    top = min(arcs[0] // 40, 2)
    return ".".join(map(str, (top, arcs[0] - 40 * top, *arcs[1:])))


def encoded(tag: int, *parts: bytes) -> bytes:
    """Return the element of that tag that holds the parts (DER)."""
    content = b"".join(parts)
    size = len(content)
    if size < _LONG_LENGTH:
        return bytes([tag, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8)
    return bytes([tag, _LONG_LENGTH | len(length)]) + length + content


def oid(text: str) -> bytes:
    """Return the element of an object identifier."""
    top, second, *rest = map(int, text.split("."))
    content = bytearray()
    for arc in (top * 40 + second, *rest):
        digits = [arc & 0x7F]
        while arc := arc >> 7:
            digits.append(arc & 0x7F | 0x80)
        content += bytes(reversed(digits))
    return encoded(OID, bytes(content))
