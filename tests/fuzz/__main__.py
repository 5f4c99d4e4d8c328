"""`python -m tests.fuzz [--minutes M] [TARGET...]`: feeds each target so long; ends at the first finding of each.

Prints how many inputs each was fed, and what is found, made as small as possible; exit status 1 then.
"""

import argparse
import sys
import tempfile
import time
import traceback
from pathlib import Path

from hypothesis import HealthCheck, given, settings

from .mutation import spoilt
from .targets import Target, targets

EXAMPLES = 5000
"""Between two looks at the clock."""


def main() -> int:
    """Feed the targets; give 1 where anything was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--minutes", type=float, default=10.0, help="for each target [%(default)s]")
    parser.add_argument("target", nargs="*", help="all of them where none is given")
    options = parser.parse_args()
    findings = 0
    with tempfile.TemporaryDirectory() as folder, targets(Path(folder)) as found:
        for name in options.target or found:
            count, finding = fed(found[name], options.minutes * 60)
            findings += finding is not None
            print(f"{name:20} {count:9,} inputs, {'1 finding' if finding else 'no finding'}", flush=True)
            if finding is not None:
                traceback.print_exception(finding)
    return 1 if findings else 0


def fed(target: Target, seconds: float) -> tuple[int, Exception | None]:
    """Feed one target for so long; give how many inputs it was fed, and what was found."""
    count, end = 0, time.monotonic() + seconds

    @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(spoilt(target.seeds))
    def run(data: bytes) -> None:
        nonlocal count
        if time.monotonic() < end:
            count += 1
            target.feed(data)

    try:
        while time.monotonic() < end:
            run()
    except Exception as error:
        return count, error
    return count, None


if __name__ == "__main__":
    sys.exit(main())
