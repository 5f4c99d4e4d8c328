"""A fleet that gets the same rotation at the same minute, and an EST server that can do so much and no more.

A discrete-event simulation. What a device does is the program's own: whether it waits in line within a call is decided
by `handler.backoff.in_line` with `handler.servers.http.Limits`, as by HttpClient; the waits between calls are
`handler.backoff.Backoff`, as by the daemon. Only time, network and server are simulated.
"""

import heapq
import random
from collections import Counter
from dataclasses import dataclass, field

from handler.backoff import Backoff, in_line
from handler.servers.http import Limits

ROTATION = "certs-fleet"
FIRST_MINUTE = 60


@dataclass
class Server:
    """Enrols `capacity` devices a second; beyond that it answers 503 with Retry-After (seconds)."""

    capacity: int = 20
    retry_after: float = 120.0
    requests: Counter[int] = field(default_factory=Counter)
    """By second."""
    _enrolled: Counter[int] = field(default_factory=Counter)

    def enrols(self, now: float) -> bool:
        """Take a request at that second; tell whether it was served."""
        second = int(now)
        self.requests[second] += 1
        self._enrolled[second] += 1
        return self._enrolled[second] <= self.capacity


@dataclass(frozen=True)
class Outcome:
    """What a fleet did: when each device was done (seconds, sorted), and the requests of each second."""

    done: list[float]
    requests: Counter[int]

    @property
    def total(self) -> int:
        return sum(self.requests.values())

    @property
    def peak(self) -> int:
        return max(self.requests.values())

    @property
    def later_peak(self) -> int:
        """Give the requests of the busiest second after the first minute, in which no device was told to wait yet."""
        return max((count for second, count in self.requests.items() if second >= FIRST_MINUTE), default=0)

    def share_done(self, share: float) -> float:
        """Give the second by which that share of the devices was done."""
        return self.done[min(len(self.done) - 1, int(share * len(self.done)))]


class Ours:
    """The program's policy: retries within a call of two minutes, then the daemon's back-off."""

    def __init__(self) -> None:
        self._limits, self._backoff = Limits(), Backoff()

    def begin(self, number: int) -> "Device":
        """Give one device's state."""
        return Device(f"{number:08d}-device", self._limits, self._backoff)


class Device:
    """One device, as the program acts on it."""

    def __init__(self, device_id: str, limits: Limits, backoff: Backoff) -> None:
        self._id, self._limits, self._backoff = device_id, limits, backoff
        self._random = random.Random(device_id)
        self._calls = 1
        self._call_began: float | None = None
        self._retries = 0

    def wait(self, now: float, retry_after: float) -> float:
        """Give the seconds until its next request, after a 503."""
        if self._call_began is None:
            self._call_began, self._retries = now, 0
        remaining = self._limits.total - (now - self._call_began)
        turn = in_line(retry_after, self._limits.retry_delays, self._retries, remaining, self._random)
        if turn.wait is not None:
            self._retries += 1
            return turn.wait
        wait = self._backoff.delay(self._id, ROTATION, self._calls, retry_after)
        self._calls += 1
        self._call_began = None
        return wait


class Naive:
    """A client that always comes back exactly when it is told to."""

    def begin(self, _number: int) -> "Naive":
        """Give one device's state: none."""
        return self

    def wait(self, _now: float, retry_after: float) -> float:
        """Give the seconds until the next request."""
        return retry_after


def simulate(
    policy: Ours | Naive, devices: int = 10_000, within: float = 60.0, server: Server | None = None
) -> Outcome:
    """Have the devices begin evenly within so many seconds; give what they did until the last one was done."""
    server = server or Server()
    queue = [(number * within / devices, number) for number in range(devices)]
    states = [policy.begin(number) for number in range(devices)]
    heapq.heapify(queue)
    done = []
    while queue:
        now, number = heapq.heappop(queue)
        if server.enrols(now):
            done.append(now)
        else:
            heapq.heappush(queue, (now + states[number].wait(now, server.retry_after), number))
    return Outcome(done, server.requests)
