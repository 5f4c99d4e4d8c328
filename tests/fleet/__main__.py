"""`make fleet`: 10,000 devices, with our jitter and back-off and without; a table, a picture, numbers as JSON."""

import json
import sys
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

from .simulation import Naive, Ours, Outcome, Server, simulate

OUTPUT = Path("build/fleet")
BIN = 10
REQUESTS, LATER_PEAK, LAST = "requests", "peak_after_the_first_minute", "last_done_minutes"
OTHERS = (10.0, 30.0, 60.0, 300.0, 600.0)
"""Other values of Retry-After (seconds) to be asked for."""


def numbers(outcome: Outcome) -> dict[str, float]:
    """Give the figures of one run."""
    return {
        REQUESTS: outcome.total,
        "peak_requests_per_second": outcome.peak,
        LATER_PEAK: outcome.later_peak,
        "half_done_minutes": outcome.share_done(0.5) / 60,
        "99_percent_done_minutes": outcome.share_done(0.99) / 60,
        LAST: outcome.done[-1] / 60,
    }


def main() -> int:
    """Simulate, print, draw."""
    server = Server()
    runs = {"with jitter and back-off": simulate(Ours()), "without: back exactly at Retry-After": simulate(Naive())}
    figures = {name: numbers(outcome) for name, outcome in runs.items()}
    print(f"10,000 devices within a minute; the EST server enrols {server.capacity} a second (8.3 min at best)")
    for key in next(iter(figures.values())):
        print(f"  {key.replace('_', ' '):28}" + "".join(f"{figure[key]:14.1f}" for figure in figures.values()))
    print("  Retry-After: requests, peak after the first minute, minutes until the last is done; ours / without")
    for seconds in OTHERS:
        ours, naive = (numbers(simulate(policy, server=Server(retry_after=seconds))) for policy in (Ours(), Naive()))
        pairs = (f"{ours[key]:.0f} / {naive[key]:.0f}" for key in (REQUESTS, LATER_PEAK, LAST))
        print(f"  {seconds:6.0f} s" + "".join(f"{pair:>22}" for pair in pairs))
    OUTPUT.mkdir(parents=True, exist_ok=True)
    (OUTPUT / "fleet.json").write_text(json.dumps(figures, indent=1))
    figure, (above, below) = plt.subplots(2, 1, figsize=(9, 6.5), sharex=True)
    for (name, outcome), colour in zip(runs.items(), ("#1f5fa8", "#b3471d"), strict=True):
        seconds = range(0, int(outcome.done[-1]) + BIN, BIN)
        rates = [max(outcome.requests[second + at] for at in range(BIN)) for second in seconds]
        above.step([second / 60 for second in seconds], rates, color=colour, lw=1, label=name)
        done = [moment / 60 for moment in outcome.done]
        below.plot(done, [100 * at / len(done) for at in range(1, len(done) + 1)], color=colour, label=name)
    above.axhline(server.capacity, color="#888888", ls=":", label=f"capacity: {server.capacity} a second")
    above.set_ylabel(f"requests a second\n(peak of {BIN} s)")
    above.set_yscale("log")
    above.legend(fontsize=8)
    below.set_ylabel("devices done, %")
    below.set_xlabel("minutes")
    figure.tight_layout()
    figure.savefig(OUTPUT / "fleet.png", dpi=110)
    print(OUTPUT / "fleet.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
