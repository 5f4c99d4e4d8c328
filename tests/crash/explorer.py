"""Cuts a rotation off everywhere, recovers, and asks whether the device is whole.

    python -m tests.crash.explorer [--keys file|token] [--gateway takes|refuses|changes] [--every N] [--cuts KIND,...]

places.py says what is tried and what is left out, trial.py how. Ends with one line: points tried, recovered, invariants
broken, those that never came up, and what was left out. Exit status 1 where any invariant is broken.
"""

import argparse
import itertools
import multiprocessing
import os
import sys
import time
from concurrent import futures
from concurrent.futures import ProcessPoolExecutor

from .places import CUTS, GATEWAYS, new_left_out, sites
from .powerloss import ReplayError
from .trial import UncutError, plain_module, record, try_site

__all__ = ["CUTS", "GATEWAYS", "main", "plain_module", "record", "sites", "try_site"]

PROGRESS = 100
"""Points between two lines that say how far it is."""


def explore(todo):
    """Try sites, twice as many at once as there are processors (some wait for seconds); yield the findings."""
    workers = 2 * (os.cpu_count() or 1)
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        waiting = iter(todo)
        running = {pool.submit(try_site, site) for site in itertools.islice(waiting, 2 * workers)}
        while running:
            done, running = futures.wait(running, return_when=futures.FIRST_COMPLETED)
            for future in done:
                yield from future.result()
            running |= {pool.submit(try_site, site) for site in itertools.islice(waiting, len(done))}


class Tally:
    """Counts findings, and says what there is to be said of each."""

    def __init__(self):
        self.tried = self.broken = self.missed = 0
        self.left_out = new_left_out()

    def add(self, finding):
        """Count it; print at once what is broken or never came up."""
        self.tried += finding.happened or bool(finding.broken)
        self.missed += not finding.happened
        if finding.broken:
            self.broken += 1
            print(f"BROKEN {finding.point}: {'; '.join(finding.broken)}", flush=True)
        elif not finding.happened:
            print(f"never came up: {finding.point}", flush=True)

    def fail(self, name, error):
        """Count what could not even be begun."""
        self.tried += 1
        self.broken += 1
        print(f"BROKEN {name}: {error}", flush=True)

    def __str__(self):
        left = ", ".join(f"{count} {name}" for name, count in self.left_out.items())
        return (
            f"{self.tried} points tried, {self.tried - self.broken} recovered, {self.broken} with invariants broken "
            f"({self.missed} never came up; left out: {left})"
        )


def main(arguments=None):
    """Explore as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keys", choices=("file", "token"))
    parser.add_argument("--gateway", choices=GATEWAYS, help="what it does with the new certificate; all if not given")
    parser.add_argument("--every", type=int, default=1, help="try each N-th site only, and the proof")
    parser.add_argument("--cuts", default=",".join(CUTS))
    options = parser.parse_args(arguments)
    tally = Tally()
    modes = [options.keys] if options.keys else ["file", "token"]
    answers = [options.gateway] if options.gateway else GATEWAYS
    for keys, gateway in itertools.product(modes, answers):
        name = f"{keys}, gateway {gateway}"
        try:
            found = sites(keys, gateway, record(keys, gateway), options.cuts.split(","), tally.left_out)
        except (UncutError, ReplayError) as error:
            tally.fail(name, error)
            continue
        todo = [site for number, site in enumerate(found) if site.is_proof or number % max(1, options.every) == 0]
        count, start = sum(len(site.cuts) for site in todo), time.monotonic()
        print(f"{name}: {count} points", flush=True)
        for number, finding in enumerate(explore(todo), 1):
            tally.add(finding)
            if number % PROGRESS == 0 or number == count:
                rate = number / (time.monotonic() - start)
                print(f"{name}: {number} of {count}, {rate:.1f}/s, {tally.broken} broken so far", flush=True)
    print(tally)
    return 1 if tally.broken or not tally.tried else 0


if __name__ == "__main__":
    sys.exit(main())
