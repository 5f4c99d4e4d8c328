"""The format of the journal: one record per line, only appended.

    3f2a0c41 {"rotation": {...}, "add": [{...}]}

A line holds the CRC-32 of the rest (8 hexadecimal digits), a blank, a JSON object in ASCII, and a line feed. A record
contains only changed fields; `add` lists new events, `gone` the ids of removed ones. A power cut can tear the last
line: it does not count, and the next record overwrites it. A bad line before a good one is damage.
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
    """Return the records in a file's content, and their length in bytes. Raises MalformedError if it is damaged."""
    records: list[dict[str, Any]] = []
    length = 0
    bad = None
    for number, line in enumerate(content.splitlines(keepends=True), start=1):
        record = _parsed(line)
        if record is None:
            bad = bad or number
        elif bad is not None:
            raise MalformedError(f"line {bad} is unreadable")
        else:
            records.append(record)
            length += len(line)
    if content and not records:
        raise MalformedError("line 1 is unreadable")
    return records, length


def state_of(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Combine the records: return the fields and the remaining events. Raises MalformedError."""
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
    """Return how many bytes of the file hold complete records. Raises MalformedError, OSError."""
    try:
        return parse(read_regular(path))[1]
    except FileNotFoundError:
        return 0


def replace_all(path: Path, record: Mapping[str, Any]) -> int:
    """Replace the content of the file by one record, atomically and durably; return its length. Raises OSError."""
    data = _line(record)
    atomic_write(path, data, mode=0o600)
    return len(data)


def append(path: Path, record: Mapping[str, Any], *, at: int, durable: bool) -> int:
    """Write a record after the first `at` bytes, replacing any rest; return the new length.

    `durable`: flush it. Raises OSError, naming the file; then the file holds only the first `at` bytes.
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
                if written != len(data):  # a full disk raises for the rest
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
    """Return the record in a line; None if it is torn or invalid."""
    checksum, blank, text = line[:8], line[8:9], line[9:-1]
    if blank != b" " or not line.endswith(b"\n") or checksum != b"%08x" % zlib.crc32(text):
        return None
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None
