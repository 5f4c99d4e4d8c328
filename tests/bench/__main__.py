"""What one rotation costs, on loopback: `python -m tests.bench [--runs N] [--delay MS] [--publish]`.

Connections, requests, calls of the token, time, CPU time, memory and imports, with keys in files and in a token, with
the servers near and far; the same with tokens and disks that take their time; and the memory of the daemon that waits.
STOCK_FIOCONFIG in the environment names the binary of the stock client, which is then measured beside. Writes
build/bench; `--publish` puts table and picture into docs. Exit status 1 where a goal is not met.
"""

import argparse
import json
import os
import platform
import re
import shutil
import ssl
import sys
from collections.abc import Sequence

from tests.simulators.device import REPOSITORY

from .chart import draw
from .clients import clients
from .disk import rotate_on_a_slow_disk
from .imports import import_times
from .looking import looked
from .results import KEYS, SLOW, VALUES, Results
from .rotation import Case, medians, rotate, rotate_slowly, token_calls
from .table import tables
from .waiting import waiting

FOLDER = REPOSITORY / "build/bench"
DOCUMENT = REPOSITORY / "docs/benchmark.md"
BEGIN, END = "<!-- figures: make bench BENCH=--publish -->\n", "<!-- end of figures -->\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write; give the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="What one rotation costs.")
    parser.add_argument("--runs", type=int, default=5, help="rotations of each kind; medians are shown [5]")
    parser.add_argument("--delay", type=float, default=50.0, metavar="MS", help="how far the servers are [50]")
    parser.add_argument("--publish", action="store_true", help="put table and picture into docs")
    options = parser.parse_args(arguments)
    results = measure(options.runs, (0.0, options.delay / 1000))
    text = tables(results)
    print(text)
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "bench.json").write_text(json.dumps(results.json(), indent=2) + "\n")
    (FOLDER / "bench.md").write_text(text)
    draw(results, FOLDER / "bench.png")
    if options.publish:
        publish(f"{_surroundings(results)}\n\n{text}")
    return 0 if all(goal.met for goal in results.goals()) else 1


def measure(runs: int, delays: tuple[float, ...]) -> Results:
    """Measure everything. Raises FailedError."""
    programs = clients()
    load = os.getloadavg()[0]
    cases = [Case(client, keys, delay) for keys in KEYS for delay in delays for client in programs]
    found = {case: [] for case in cases}
    # In turns, so that a busy moment of the machine meets all of them; the first turn only warms up.
    for turn in range(runs + 1):
        _say(f"rotations, turn {turn} of {runs}")
        for case in cases:
            figures = rotate(case)
            if turn:
                found[case].append(figures)
    slowly = {(client, speed): [] for speed in SLOW for client in programs}
    for turn in range(runs):
        _say(f"slow tokens, turn {turn + 1} of {runs}")
        for (client, speed), figures in slowly.items():
            figures.append(rotate_slowly(client, speed))
    disk = {(client.name, keys): [] for keys in KEYS for client in programs}
    for turn in range(runs):
        _say(f"slow disk, turn {turn + 1} of {runs}")
        for keys in KEYS:
            for client in programs:
                disk[client.name, keys].append(rotate_on_a_slow_disk(client, keys))
    _say("calls of the token")
    calls = {client.name: token_calls(client) for client in programs}
    looks = looked(VALUES)
    _say("imports")
    imports = {keys: import_times(keys, runs) for keys in KEYS}
    _say("the daemon")
    memory = waiting(runs)
    surroundings = {
        "python": platform.python_version(),
        "openssl": ssl.OPENSSL_VERSION,
        "machine": platform.machine(),
        "cores": str(os.cpu_count()),
        "load": f"{load:.1f}",
    }
    rotations = {case: medians(each) for case, each in found.items()}
    slow = {(client.name, speed): medians(each) for (client, speed), each in slowly.items()}
    disks = {case: medians(each) for case, each in disk.items()}
    return Results(runs, delays, rotations, slow, disks, looks, calls, imports, memory, surroundings)


def publish(text: str) -> None:
    """Put the tables between their marks in the document, and the picture beside it."""
    marks = re.compile(f"({re.escape(BEGIN)}).*({re.escape(END)})", re.DOTALL)
    DOCUMENT.write_text(marks.sub(lambda found: f"{found[1]}\n{text}\n{found[2]}", DOCUMENT.read_text()))
    shutil.copyfile(FOLDER / "bench.png", DOCUMENT.with_suffix(".png"))


def _surroundings(results: Results) -> str:
    where = results.surroundings
    return (
        f"Medians of {results.runs}, with Python {where['python']}, {where['openssl']}, SoftHSM, on {where['cores']} "
        f"shared cores ({where['machine']}): a load of {where['load']} before it began."
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
