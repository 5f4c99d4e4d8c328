"""What a rotation spends on importing Python modules (`-X importtime`)."""

import re
from collections import Counter
from dataclasses import dataclass, replace
from statistics import median

from .clients import OURS
from .rotation import Keys, said

TOP = 10
_LINE = re.compile(r"^import time:\s+(\d+) \|\s+\d+ \|\s*(\S+)$", re.MULTILINE)


@dataclass(frozen=True)
class Imports:
    """Times in seconds: of all modules, and of the most expensive packages and modules, without what they import."""

    total: float
    modules: int
    by_package: dict[str, float]
    by_module: dict[str, float]


def import_times(keys: Keys, runs: int) -> Imports:
    """Rotate so often, and give the medians. Raises FailedError."""
    client = replace(OURS, options=("-X", "importtime"))
    found = [_LINE.findall(said(client, keys)) for _ in range(runs)]
    by_module = {
        name: median(sum(int(time) for time, each in run if each == name) for run in found) / 1e6
        for name in {name for run in found for _, name in run}
    }
    by_package: Counter[str] = Counter()
    for name, seconds in by_module.items():
        by_package[name.partition(".")[0]] += seconds
    total = median(sum(int(time) for time, _ in run) for run in found) / 1e6
    return Imports(total, len(by_module), dict(by_package.most_common(TOP)), dict(Counter(by_module).most_common(TOP)))
