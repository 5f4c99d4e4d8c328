"""What a check found: one line for a person."""

from dataclasses import dataclass

OK, WARNING, PROBLEM, SKIPPED = "ok", "warning", "problem", "skipped"


@dataclass(frozen=True)
class Finding:
    """How good it is, what it is about, and what was found; where it is not ok, what to do too."""

    level: str
    topic: str
    text: str


def ok(topic: str, text: str) -> Finding:
    """As a rotation needs it."""
    return Finding(OK, topic, text)


def warning(topic: str, text: str) -> Finding:
    """A rotation goes on without it."""
    return Finding(WARNING, topic, text)


def problem(topic: str, text: str) -> Finding:
    """A rotation would be refused, or fail."""
    return Finding(PROBLEM, topic, text)


def skipped(topic: str, text: str) -> Finding:
    """Not tried, for a reason; neither good nor bad."""
    return Finding(SKIPPED, topic, text)
