"""Explore, and say what was found."""

import argparse
import sys

from .explorer import Explorer
from .starts import STARTS


def main():
    """Explore within the bounds of the command line; exit status 1 where anything is broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.model", description=__doc__)
    parser.add_argument("--faults", type=int, default=3)
    parser.add_argument("--changes", type=int, default=3)
    options = parser.parse_args()
    result = Explorer(options.faults, options.changes).run(STARTS)
    for story in result.stories[:3]:
        print(story, end="\n\n")
    print(result.line(options.faults, options.changes))
    return 1 if result.stories else 0


if __name__ == "__main__":
    sys.exit(main())
