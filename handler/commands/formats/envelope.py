"""What every JSON object of a command begins with. docs/json.md describes them all, docs/schemas/ for programs."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from handler import __version__

VERSIONS = {"status": 2, "check": 1, "slots": 1, "log": 1, "dry-run": 1}
"""Of each schema. Fields may be added without another number; none is renamed, removed or given another meaning."""


def as_json(schema: str, content: Mapping[str, Any]) -> str:
    """Give the JSON text of one of the schemas, ASCII only."""
    head = {
        "schema": schema,
        "version": VERSIONS[schema],
        "program_version": __version__,
        "time": moment(datetime.now(UTC)),
    }
    return json.dumps(head | dict(content), indent=2)


def moment(time: datetime) -> str:
    """Give a time (aware) as every schema has it: RFC 3339, UTC, whole seconds."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
