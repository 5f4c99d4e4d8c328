"""Lines for the systemd journal: each has a priority (sd-daemon(3)) and the ROTATIONID."""

import os
import re
from collections.abc import Callable, Mapping
from typing import TextIO

ERROR, WARNING, INFO, DEBUG = 3, 4, 6, 7
"""syslog(3)."""
_NAMELESS = re.compile(r"[^!-~]")


class Journald:
    """Prefixes lines that go to the systemd journal.

    `rotation_id` returns the current rotation; after it returns None, the last one is used.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._stream = environment.get("JOURNAL_STREAM", "")
        self._known = ""
        self.rotation_id: Callable[[], str | None] = lambda: None

    def reads(self, stream: TextIO) -> bool:
        """Tell whether the stream is connected to the journal (systemd.exec(5), JOURNAL_STREAM)."""
        if not self._stream:
            return False
        try:
            status = os.fstat(stream.fileno())
        except (OSError, ValueError):
            return False
        return self._stream == f"{status.st_dev}:{status.st_ino}"

    def line(self, stream: TextIO, text: str, priority: int = INFO) -> str:
        """Return the line (or lines), with prefixes if the stream is connected to the journal."""
        if not self.reads(stream):
            return text
        self._known = self.rotation_id() or self._known
        first = f"<{priority}>{_NAMELESS.sub('?', self._known)}: " if self._known else f"<{priority}>"
        return "\n".join(f"{first}{line}" if line else line for line in text.split("\n"))


JOURNALD = Journald()
"""The one of this process."""
