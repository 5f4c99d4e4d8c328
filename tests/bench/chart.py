"""The figures as bars."""

from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib as mpl

from .clients import OURS
from .results import (
    CONNECTIONS_AT_MOST,
    CPU_BELOW,
    DAEMON_BELOW,
    FLUSHES_AT_MOST,
    KEYS,
    LOGINS,
    MEMORY_BELOW,
    SHARE_OF_THE_STOCK_TIME,
    SIGNATURES,
    SIGNATURES_AT_MOST,
    SLOW,
    STOCK_SECONDS,
    Results,
)
from .rotation import Figures

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

_COLOURS = ("#2f6f9f", "#c98a3b")
_INK, _GOAL = "#333333", "#b03a2e"
_CALLS = {SIGNATURES: "sign", "C_DeriveKey": "derive", "C_GenerateKeyPair": "generate", LOGINS: "log in"}


def draw(results: Results, path: Path) -> None:
    """Draw all figures into a PNG file."""
    plt.rcParams.update({"font.size": 9, "axes.edgecolor": _INK, "text.color": _INK, "axes.labelcolor": _INK})
    figure, axes = plt.subplots(2, 4, figsize=(14.5, 6.4), layout="constrained")
    (wall, cpu, memory, slow), (counts, calls, flushes, daemon) = axes
    _cases(wall, results, "time, s", lambda each: each.wall, "%.2f")
    far = f"{max(results.delays) * 1000:.0f} ms"
    if len(results.clients) == 1:
        half = SHARE_OF_THE_STOCK_TIME * STOCK_SECONDS
        _limit(wall, half, f"goal at {far}: {half:.2f}")
    _cases(cpu, results, "CPU time, s", lambda each: each.cpu, "%.2f")
    _limit(cpu, CPU_BELOW)
    _cases(memory, results, "peak memory, MB", lambda each: each.memory, "%.0f")
    _limit(memory, MEMORY_BELOW)
    _cases(counts, results, "TLS connections", lambda each: each.connections, "%.0f")
    _limit(counts, CONNECTIONS_AT_MOST)
    found = {name: [float(each[call]) for call in _CALLS] for name, each in results.calls.items()}
    _bars(calls, "calls of the token", list(_CALLS.values()), found, "%.0f")
    _limits(calls, [SIGNATURES_AT_MOST])
    times = {name: [results.slow[name, speed].wall for speed in SLOW] for name in results.clients}
    _bars(slow, "time with a slow token, s", [f"{each.call:g} + {each.operation:g} ms" for each in SLOW], times, "%.2f")
    _limits(slow, [results.slow_limit(speed) for speed in SLOW])
    counted = {name: [results.disk[name, keys].flushes for keys in KEYS] for name in results.clients}
    _bars(flushes, "flushes (fsync)", list(KEYS), counted, "%.0f")
    _limits(flushes, list(FLUSHES_AT_MOST.values()))
    names = list(results.waiting)
    resident = {OURS.name: [each.resident for each in results.waiting.values()]}
    _bars(daemon, "daemon while it waits, resident MB", names, resident, "%.1f")
    _limit(daemon, DAEMON_BELOW)
    if len(results.clients) > 1:
        figure.legend(*wall.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    figure.suptitle("renew-client-cert: one rotation on loopback, median of " + str(results.runs), fontsize=11)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _cases(axes: Axes, results: Results, title: str, figure: Callable[[Figures], float], form: str) -> None:
    cases = [(keys, delay) for keys in KEYS for delay in results.delays]
    names = [f"{keys}\n{delay * 1000:.0f} ms" for keys, delay in cases]
    found = {client: [figure(results.figures(client, *case)) for case in cases] for client in results.clients}
    _bars(axes, title, names, found, form)


def _bars(axes: Axes, title: str, names: list[str], found: dict[str, list[float]], form: str) -> None:
    width = 0.7 / len(found)
    for number, (client, values) in enumerate(found.items()):
        places = [place + (number - (len(found) - 1) / 2) * width for place in range(len(names))]
        bars = axes.bar(places, values, width, label=client, color=_COLOURS[number])
        axes.bar_label(bars, fmt=form, padding=2, fontsize=8)
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_xticks(range(len(names)), names)
    axes.margins(y=0.2)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(length=0, colors=_INK)


def _limits(axes: Axes, values: Sequence[float]) -> None:
    """Draw a goal across each of the first bars."""
    for place, value in enumerate(values):
        axes.plot([place - 0.45, place + 0.45], [value] * 2, color=_GOAL, linestyle="--", linewidth=1)


def _limit(axes: Axes, value: float, text: str = "goal") -> None:
    axes.axhline(value, color=_GOAL, linestyle="--", linewidth=1)
    # On the left, above the line, on white: bars and their labels may stand behind.
    place = {"xytext": (2, 3), "textcoords": "offset points", "ha": "left", "va": "bottom"}
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.5}
    axes.annotate(text, (0, value), xycoords=("axes fraction", "data"), color=_GOAL, fontsize=8, bbox=box, **place)
    axes.set_ylim(top=max(axes.get_ylim()[1], 1.2 * value))
