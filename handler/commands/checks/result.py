"""What a check finds: a level, and a line for a person."""

OK, WARNING, PROBLEM, SKIPPED = "ok", "warning", "problem", "skipped"
"""A rotation can rely on it, or can do without it; it would be refused or fail; not checked, and why."""

Found = tuple[str, str]
"""One of the levels, and the text; of a warning or a problem also what to do."""
