"""Explore, and say what was found."""

import argparse
import sys

from .explorer import CALLS, Explorer
from .starts import STARTS
from .world import REPLICAS


def main():
    """Explore within the bounds of the command line; exit status 1 where anything is broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.model", description=__doc__)
    parser.add_argument("--faults", type=int, default=3, help="one fewer for a gateway of two replicas")
    parser.add_argument("--changes", type=int, default=1)
    options = parser.parse_args()
    states = transitions = broken = 0
    for start in STARTS:
        faults = max(0, options.faults - (start.gateway == REPLICAS))
        result = Explorer(faults, options.changes).run([start])
        for story in result.stories[:3]:
            print(story, end="\n\n")
        states, transitions = states + result.states, transitions + result.transitions
        broken += len(result.stories)
    print(
        f"{states} states, {transitions} transitions, {broken} broken (at most {options.faults} faults, one fewer with "
        f"replicas, and {options.changes} changes on a path; at rest after {CALLS} calls)"
    )
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
