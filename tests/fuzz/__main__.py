"""`python -m tests.fuzz [--minutes M] [TARGET...]`: feeds each target so long; ends at the first finding of each.

Prints how many inputs each was fed, and what is found, made as small as possible; exit status 1 then.
"""

import argparse
import contextlib
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
SHOWN = 2000


def main() -> int:
    """Feed the targets; give 1 where anything was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--minutes", type=float, default=10.0, help="for each target [%(default)s]")
    parser.add_argument("target", nargs="*", help="all of them where none is given")
    options = parser.parse_args()
    findings = 0
    with tempfile.TemporaryDirectory() as folder, targets(Path(folder)) as found:
        for name in options.target or found:
            feeder = Feeder(found[name], options.minutes * 60)
            feeder.run()
            findings += feeder.finding is not None
            print(f"{name:20} {feeder.count:9,} inputs, {'a finding' if feeder.finding else 'no finding'}", flush=True)
            if feeder.finding is not None:
                traceback.print_exception(feeder.finding)
                print(f"input ({len(feeder.smallest)} bytes): {feeder.smallest[:SHOWN]!r}")
    return 1 if findings else 0


class Feeder:
    """Feeds one target for so many seconds, or up to a finding, which it makes small."""

    def __init__(self, target: Target, seconds: float) -> None:
        self._target = target
        self._end = time.monotonic() + seconds
        self.count = 0
        self.finding: Exception | None = None
        self.smallest = b""
        """The input that it was found with."""

    def run(self) -> None:
        """Feed it."""

        @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(spoilt(self._target.seeds))
        def examples(data: bytes) -> None:
            if self.finding is not None or time.monotonic() < self._end:
                self._feed(data)

        # What hypothesis raises says it in other words.
        with contextlib.suppress(Exception):
            while self.finding is None and time.monotonic() < self._end:
                examples()

    def _feed(self, data: bytes) -> None:
        self.count += 1
        try:
            self._target.feed(data)
        except Exception as error:
            if self.finding is None or len(data) < len(self.smallest):
                self.finding, self.smallest = error, data
            raise


if __name__ == "__main__":
    sys.exit(main())
