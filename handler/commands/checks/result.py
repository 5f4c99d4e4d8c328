"""The result of a check: one line for a person."""

from dataclasses import dataclass

OK, WARNING, PROBLEM, SKIPPED = "ok", "warning", "problem", "skipped"


@dataclass(frozen=True)
class Result:
    """Level, topic, and what was found; for a warning or a problem also what to do."""

    level: str
    topic: str
    text: str


def ok(topic: str, text: str) -> Result:
    """A rotation can rely on it."""
    return Result(OK, topic, text)


def warning(topic: str, text: str) -> Result:
    """A rotation can do without it."""
    return Result(WARNING, topic, text)


def problem(topic: str, text: str) -> Result:
    """A rotation would be refused, or fail."""
    return Result(PROBLEM, topic, text)


def skipped(topic: str, text: str) -> Result:
    """Not checked; the text says why."""
    return Result(SKIPPED, topic, text)
