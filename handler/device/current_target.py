"""The Target that the device runs, for the events."""

import re
from pathlib import Path

from .storage import read_regular

_ASSIGNMENT = re.compile(r"""^[ \t]*(\w+)[ \t]*=[ \t]*+(["']?)([ !#-&(-~]*+)\2[ \t]*\r?$""", re.MULTILINE)
MAX_BYTES = 65536


def current_target(storage: Path) -> tuple[str, str]:
    """Return name and version from STORAGE_DIR/current-target; "" and "0" if it has none, as fioconfig does."""
    try:
        text = read_regular(storage / "current-target", MAX_BYTES).decode("ascii", "replace")
    except OSError:
        return "", "0"
    values = {match[1]: match[3] for match in _ASSIGNMENT.finditer(text)}
    version = values.get("CUSTOM_VERSION", "")
    return values.get("TARGET_NAME", ""), version if version.isdecimal() else "0"
