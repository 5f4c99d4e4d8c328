"""The journal's file: records, one a line, that are only ever appended.

    3f2a0c41 {"rotation": {...}, "add": [{...}]}

A line is the CRC-32 of what follows (8 hexadecimal digits), a blank, a JSON object in ASCII, and a line feed. What a
record does not name is as before; `add` are new events, `gone` the ids of those that left. What a cut tore is at the
end: it is no record, and the next one is written in its place. A bad line with a good one behind it is damage.
"""

import contextlib
import errno
import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from handler.device.storage import atomic_write, read_regular

from .decoding import MalformedError

FIELDS = ("version", "device", "rotation", "requested", "waiting", "kept")


def parse(content: bytes) -> tuple[list[dict[str, Any]], int]:
    """Give the records of a file's content, and how many bytes they take. Raises MalformedError for damage."""
    records: list[dict[str, Any]] = []
    length = 0
    bad = None
    for number, line in enumerate(content.splitlines(keepends=True), start=1):
        record = _parsed(line)
        if record is None:
            bad = bad or number
        elif bad is not None:
            raise MalformedError(f"line {bad} is damaged")
        else:
            records.append(record)
            length += len(line)
    if content and not records:
        raise MalformedError("line 1 is damaged")
    return records, length


def state_of(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Give what the records say together: the fields, and the events that are left. Raises MalformedError."""
    state: dict[str, Any] = dict.fromkeys(FIELDS)
    events: dict[str, Any] = {}
    for number, record in enumerate(records, start=1):
        state.update({name: record[name] for name in FIELDS if name in record})
        try:
            for event_id in record.get("gone", ()):
                events.pop(event_id, None)
            events.update({event["id"]: event for event in record.get("add", ())})
        except (TypeError, KeyError) as error:
            raise MalformedError(f"line {number} holds no events: {error!r}") from error
    return {**state, "events": list(events.values())}


def whole_length(path: Path) -> int:
    """Give how many bytes of the file hold whole records. Raises MalformedError, OSError."""
    try:
        return parse(read_regular(path))[1]
    except FileNotFoundError:
        return 0


def replace_all(path: Path, record: Mapping[str, Any]) -> int:
    """Have the file hold just that record, durably and whole or not at all; give its length. Raises OSError."""
    data = _line(record)
    atomic_write(path, data, mode=0o600)
    return len(data)


def append(path: Path, record: Mapping[str, Any], *, at: int, durable: bool) -> int:
    """Write a record behind the first `at` bytes, in the place of whatever is there; give the length after it.

    `durable`: flush it. On failure OSError is raised, which names the file, and those bytes are all that it holds.
    """
    data = _line(record)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            if (size := os.fstat(descriptor).st_size) < at:
                raise OSError(errno.ESTALE, "it has become shorter")
            if size > at:
                os.ftruncate(descriptor, at)
            try:
                written = os.write(descriptor, data)
                if written != len(data):  # the disk is full, and says so to the rest
                    os.write(descriptor, data[written:])
                if durable:
                    os.fsync(descriptor)
            except OSError:
                with contextlib.suppress(OSError):
                    os.ftruncate(descriptor, at)
                raise
        finally:
            os.close(descriptor)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    return at + len(data)


def _line(record: Mapping[str, Any]) -> bytes:
    text = json.dumps(record, separators=(",", ":")).encode("ascii")
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _parsed(line: bytes) -> dict[str, Any] | None:
    """Give the record of a line; None where it is none, or not whole."""
    checksum, blank, text = line[:8], line[8:9], line[9:-1]
    if blank != b" " or not line.endswith(b"\n") or checksum != b"%08x" % zlib.crc32(text):
        return None
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None
