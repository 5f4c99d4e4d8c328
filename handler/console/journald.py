"""Lines for systemd's journal: each with its priority (sd-daemon(3)) and the ROTATIONID."""

import os
import re
from collections.abc import Callable, Mapping
from typing import TextIO

ERROR, WARNING, INFO, DEBUG = 3, 4, 6, 7
"""syslog(3)."""
_NAMELESS = re.compile(r"[^!-~]")


class Journald:
    """Whether a stream is the journal's, and what its lines begin with then.

    `rotation_id` gives the rotation that the lines are about, the last one that was known where it knows none.
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
        """Give a line (or several) as the stream wants it: as it is, but for the journal."""
        if not self.reads(stream):
            return text
        self._known = self.rotation_id() or self._known
        first = f"<{priority}>{_NAMELESS.sub('?', self._known)}: " if self._known else f"<{priority}>"
        return "\n".join(f"{first}{line}" if line else line for line in text.split("\n"))


JOURNALD = Journald()
"""Of this process."""
