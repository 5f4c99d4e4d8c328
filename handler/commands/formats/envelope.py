"""What every JSON object of a command begins with. docs/json.md describes them all, docs/schemas/ for programs."""

import json
from collections.abc import Mapping
from dataclasses import is_dataclass
from datetime import UTC, datetime
from typing import Any

from handler import __version__

VERSIONS = {"status": 2, "check": 1, "slots": 1, "log": 1, "dry-run": 1}
"""Of each schema. Fields may be added without another number; none is renamed, removed or given another meaning."""


def as_json(schema: str, content: Mapping[str, Any]) -> str:
    """Give the JSON text of one of the schemas, ASCII only; of a dataclass in it, every field."""
    head = {"schema": schema, "version": VERSIONS[schema], "program_version": __version__, "time": datetime.now(UTC)}
    return json.dumps(head | dict(content), indent=2, default=_plain)


def _plain(value: object) -> object:
    """Give a time (aware) as RFC 3339 in UTC with whole seconds, and a path as text."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return vars(value) if is_dataclass(value) else str(value)
