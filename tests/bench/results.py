"""All that is measured, and the goals that it is measured against."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from tests.modules import Speed

from .clients import OURS
from .disk import SECONDS, DiskFigures
from .imports import Imports
from .looking import Looked
from .rotation import Case, Figures, Keys, SlowFigures
from .waiting import Waiting

KEYS: tuple[Keys, ...] = ("file", "token")
SIGNATURES, LOGINS = "C_SignInit", "C_Login"
CONNECTIONS_AT_MOST = 5
SIGNATURES_AT_MOST = 6
LOGINS_AT_MOST = 1
SHARE_OF_THE_STOCK_TIME = 0.5
STOCK_SECONDS = 3.1
"""How long the stock client takes at 50 ms one way, for runs without it."""
VALUES = 3
"""Encrypted ones that the device has whose token is slow."""
CALLS_AT_MOST = 110 + 6 * VALUES
OPERATIONS_AT_MOST = 9 + VALUES
SLOW = {Speed(5.0, 50.0): (0.95, 1.75), Speed(20.0, 100.0): (0.85, 4.5)}
"""How slow, and what is wanted then: the share of the stock client's time, and the seconds for runs without it."""
CPU_BELOW = 0.35
FLUSHES_AT_MOST: dict[Keys, int] = {"file": 28, "token": 26}
REST = 0.5
"""Seconds beside the flushes that a rotation may take on a slow disk, under strace."""
MEMORY_BELOW = 55.0
DAEMON_BELOW = 20.0


@dataclass(frozen=True)
class Goal:
    """A figure of this program and what it has to be."""

    what: str
    found: str
    wanted: str
    met: bool


@dataclass(frozen=True)
class Results:
    """What was measured. `calls` are those of the token, by program."""

    runs: int
    delays: tuple[float, ...]
    rotations: dict[Case, Figures]
    slow: dict[tuple[str, Speed], SlowFigures]
    disk: dict[tuple[str, Keys], DiskFigures]
    looked: dict[str, Looked]
    calls: dict[str, Counter[str]]
    imports: dict[Keys, Imports]
    waiting: dict[str, Waiting]
    surroundings: dict[str, str]

    @property
    def clients(self) -> list[str]:
        """The names of the programs, this one first."""
        return list(dict.fromkeys(case.client.name for case in self.rotations))

    def figures(self, client: str, keys: Keys, delay: float) -> Figures:
        """Give the figures of one case."""
        return next(
            figures
            for case, figures in self.rotations.items()
            if (case.client.name, case.keys, case.delay) == (client, keys, delay)
        )

    def goals(self) -> list[Goal]:
        """Compare with what was wanted; of several cases the worst counts."""
        ours = [figures for case, figures in self.rotations.items() if case.client is OURS]
        calls = self.calls[OURS.name]
        goals = [_at_most("TLS connections", max(each.connections for each in ours), CONNECTIONS_AT_MOST)]
        far = max(self.delays)
        for keys in KEYS if far else ():
            wall = self.figures(OURS.name, keys, far).wall
            stock = [self.figures(each, keys, far).wall for each in self.clients if each != OURS.name]
            limit = SHARE_OF_THE_STOCK_TIME * (stock or [STOCK_SECONDS])[0]
            text = f"at most {limit:.2f} s, half of the stock client's {limit / SHARE_OF_THE_STOCK_TIME:.1f} s"
            goals.append(Goal(f"time at {far * 1000:.0f} ms, {keys}", f"{wall:.2f} s", text, wall <= limit))
        goals += [
            _at_most("signatures by the token", calls[SIGNATURES], SIGNATURES_AT_MOST),
            _at_most("logins", calls[LOGINS], LOGINS_AT_MOST),
        ]
        goals += self._slow_goals()
        goals += [
            _at_most(f"calls of the token, `{name}`", each.calls, each.limit) for name, each in self.looked.items()
        ]
        goals += self._disk_goals()
        for keys in KEYS:
            cpu = max(self.figures(OURS.name, keys, delay).cpu for delay in self.delays)
            goals.append(Goal(f"CPU time, {keys}", f"{cpu:.2f} s", f"below {CPU_BELOW} s", cpu < CPU_BELOW))
        goals += [
            _below(f"peak memory, {keys}", max(self.figures(OURS.name, keys, each).memory for each in self.delays))
            for keys in KEYS
        ]
        goals += [_below(f"daemon, {name}", each.resident, DAEMON_BELOW) for name, each in self.waiting.items()]
        return goals

    def _slow_goals(self) -> Iterator[Goal]:
        ours = [figures for (name, _), figures in self.slow.items() if name == OURS.name]
        yield _at_most(f"calls of the token, {VALUES} values", max(int(each.calls) for each in ours), CALLS_AT_MOST)
        yield _at_most(
            f"operations of the token, {VALUES} values", max(int(each.operations) for each in ours), OPERATIONS_AT_MOST
        )
        for speed, (share, _) in SLOW.items():
            wall, limit = self.slow[OURS.name, speed].wall, self.slow_limit(speed)
            beside = f", {share} of the stock client's {limit / share:.2f} s" if len(self.clients) > 1 else ""
            text = f"at most {limit:.2f} s{beside}"
            yield Goal(f"time with a token of {speed}", f"{wall:.2f} s", text, wall <= limit)

    def slow_limit(self, speed: Speed) -> float:
        """Give the seconds that a rotation may take with that token."""
        share, seconds = SLOW[speed]
        stock = [figures.wall for (name, each), figures in self.slow.items() if each == speed and name != OURS.name]
        return share * stock[0] if stock else seconds

    def _disk_goals(self) -> Iterator[Goal]:
        for keys, limit in FLUSHES_AT_MOST.items():
            found = self.disk[OURS.name, keys]
            yield _at_most(f"flushes, {keys}", int(found.flushes), limit)
            seconds = limit * SECONDS + REST
            what = f"time at {SECONDS * 1000:.0f} ms a flush, {keys}"
            yield Goal(what, f"{found.wall:.2f} s", f"at most {seconds:.2f} s", found.wall <= seconds)

    def json(self) -> dict[str, Any]:
        """Give everything, to be kept."""
        return {
            "surroundings": self.surroundings,
            "runs": self.runs,
            "rotations": [
                {"client": case.client.name, "keys": case.keys, "delay": case.delay, **asdict(figures)}
                for case, figures in self.rotations.items()
            ],
            "slow tokens": [
                {"client": name, **asdict(speed), **asdict(figures)} for (name, speed), figures in self.slow.items()
            ],
            "disk": [{"client": name, "keys": keys, **asdict(each)} for (name, keys), each in self.disk.items()],
            "commands that look": {name: asdict(each) for name, each in self.looked.items()},
            "token calls": {name: dict(sorted(calls.items())) for name, calls in self.calls.items()},
            "imports": {keys: asdict(each) for keys, each in self.imports.items()},
            "daemon": {name: asdict(each) for name, each in self.waiting.items()},
            "goals": [asdict(each) for each in self.goals()],
        }


def _at_most(what: str, found: int, limit: int) -> Goal:
    return Goal(what, str(found), f"at most {limit}", found <= limit)


def _below(what: str, found: float, limit: float = MEMORY_BELOW) -> Goal:
    return Goal(what, f"{found:.1f} MB", f"below {limit:.0f} MB", found < limit)
