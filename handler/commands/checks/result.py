"""What a check found: one line for a person."""

from dataclasses import dataclass

OK, WARNING, PROBLEM, SKIPPED = "ok", "warning", "problem", "skipped"


@dataclass(frozen=True)
class Result:
    """How good it is, what it is about, and what was found; where it is not ok, what to do too."""

    level: str
    topic: str
    text: str


def ok(topic: str, text: str) -> Result:
    """As a rotation needs it."""
    return Result(OK, topic, text)


def warning(topic: str, text: str) -> Result:
    """A rotation goes on without it."""
    return Result(WARNING, topic, text)


def problem(topic: str, text: str) -> Result:
    """A rotation would be refused, or fail."""
    return Result(PROBLEM, topic, text)


def skipped(topic: str, text: str) -> Result:
    """Not tried, for a reason; neither good nor bad."""
    return Result(SKIPPED, topic, text)
