"""A complete answer of a server, with its times and reasons."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from handler.errors import ServerRefusedError

MAX_WORDS = 500
MAX_RETRY_AFTER = 24 * 3600.0


@dataclass(frozen=True)
class Answer:
    """A complete answer; headers are looked up in any letter case."""

    url: str
    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)
    asked: str = ""
    """Which server was asked for what: "EST server est.example:8443: GET /cacerts"."""

    @property
    def is_markup(self) -> bool:
        """Whether the body is a web page or other markup, which our servers never send."""
        return self.body.lstrip(b"\xef\xbb\xbf\xff\xfe\x00 \t\r\n").startswith(b"<")

    @property
    def date(self) -> datetime | None:
        """The server's clock (Date, RFC 9110 §6.6.1), if it is there."""
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
        # By the server's clock if possible: the device's may be wrong by years.
        return min(max(0.0, (when - (self.date or datetime.now(UTC))).total_seconds()), MAX_RETRY_AFTER)

    @property
    def words(self) -> str:
        """The server's words in the body: one printable line, 500 characters at most."""
        text = self.body[: 8 * MAX_WORDS].decode("utf-8", "replace")
        text = " ".join(re.sub(r"[^\x20-\x7e\u00a0-\ufffc]", " ", text).split())
        return text if len(text) <= MAX_WORDS else text[: MAX_WORDS - 1] + "…"

    def refusal(self, what: str) -> ServerRefusedError:
        """Return the error that says what failed (`what`) with this answer."""
        words = f": {self.words}" if self.words else ""
        return ServerRefusedError(f"{self.asked}: {what}: it answered HTTP {self.status}{words}", self.status)


def _moment(text: str) -> datetime | None:
    """Read an HTTP date, in UTC if it has no zone (RFC 9110 §5.6.7); None if it is invalid."""
    try:
        found = parsedate_to_datetime(text)
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError, IndexError, TypeError):
        return None
