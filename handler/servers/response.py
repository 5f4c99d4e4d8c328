"""A whole answer of a server, and what it says of times, types and reasons."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from handler.errors import ServerRefusedError

MAX_WORDS = 500
MAX_RETRY_AFTER = 24 * 3600.0


@dataclass(frozen=True)
class Answer:
    """A whole answer: its status, headers (any letter case) and body (bytes)."""

    url: str
    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)

    @property
    def is_markup(self) -> bool:
        """Whether the body is a web page or other markup, which no server of ours answers with."""
        return self.body[:64].lstrip(b"\xef\xbb\xbf\xff\xfe\x00 \t\r\n").startswith(b"<")

    @property
    def date(self) -> datetime | None:
        """The server's clock (Date, RFC 9110 §6.6.1); None if it does not say."""
        return _moment(self.headers.get("Date", ""))

    @property
    def retry_after(self) -> float | None:
        """Seconds that Retry-After (RFC 9110 §10.2.3) asks to wait; None if it is absent or absurd."""
        value = self.headers.get("Retry-After", "").strip(" \t")
        if re.fullmatch("[0-9]+", value):
            return min(float(value), MAX_RETRY_AFTER)
        when = _moment(value)
        if when is None:
            return None
        # By the server's own clock if it shows it: that of the device may be wrong by years.
        return min(max(0.0, (when - (self.date or datetime.now(UTC))).total_seconds()), MAX_RETRY_AFTER)

    @property
    def words(self) -> str:
        """What the server says in its body, for a person: one line, printable, 500 characters at most."""
        text = self.body[: 8 * MAX_WORDS].decode("utf-8", "replace")
        text = " ".join(re.sub(r"[^\x20-\x7e\u00a0-\ufffc]", " ", text).split())
        return text if len(text) <= MAX_WORDS else text[: MAX_WORDS - 1] + "…"

    def refusal(self, what: str) -> ServerRefusedError:
        """Make the error that says what was asked for and what this server answered instead."""
        words = f": {self.words}" if self.words else ""
        host = urlsplit(self.url).netloc
        return ServerRefusedError(f"{what}: {host} answered HTTP {self.status}{words}", self.status)


def _moment(text: str) -> datetime | None:
    """Read an HTTP date; None if it is none. One without a zone is UTC (RFC 9110 §5.6.7)."""
    try:
        found = parsedate_to_datetime(text)
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError, IndexError, TypeError):
        return None
