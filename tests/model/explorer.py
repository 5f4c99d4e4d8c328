"""Visits every state that the rules can bring the abstract world to, within bounds; tells the story of what is broken.

Between two calls the world may change: another request, a withdrawn one, `abort`, a gateway that changes its mind, an
edit of sota.toml by somebody else, a lost journal. Each is a change, and costs one; after each effect of a call it may
be cut off, which is a fault, and costs one.
"""

import time
from collections import deque
from dataclasses import dataclass, field

from handler.rotation import rules
from handler.rotation.found import Wish
from handler.rotation.rules import Action

from .actions import ACTIONS, found_in, is_switched
from .world import NEW, OLD, OTHER, REFUSES, REPLICAS, TAKES, Memory, World, broken, unsettled

MOST_ACTIONS = 60
"""Of one call; more are a loop without end."""
CALLS = 6
"""Calls by which a world that behaves has to come to rest: fioconfig's and `resume`, in turn."""


@dataclass
class Result:
    """What was visited, and what was found broken: stories, the shortest first."""

    states: int = 0
    transitions: int = 0
    stories: list[str] = field(default_factory=list)
    found: set[rules.Found] = field(default_factory=set)
    seconds: float = 0.0

    def line(self, faults, changes):
        """Say it in one line."""
        return (
            f"{self.states} states, {self.transitions} transitions, {len(self.stories)} broken "
            f"(at most {faults} faults and {changes} changes on a path; at rest after {CALLS} calls)"
        )


class Explorer:
    """Explores the rules of `table` with `actions`; stops after the first story where `first` is set."""

    def __init__(self, faults, changes, *, table=None, actions=ACTIONS, first=False):
        self.faults, self.changes, self.first = faults, changes, first
        self.table = rules.TABLE if table is None else table
        self.actions = actions
        self.result = Result()
        self._decided = {}
        self._parents = {}
        self._at_rest = set()

    def run(self, worlds):
        """Explore from these worlds."""
        start = time.monotonic()
        waiting = deque()
        for world in worlds:
            self._parents[world] = None
            waiting.append(world)
        while waiting:
            world = waiting.popleft()
            self.result.states += isinstance(world, World)
            why = self._wrong(world)
            if why:
                self.result.stories.append(self._story(world, why))
                if self.first:
                    break
                continue
            for label, after in self._next(world):
                self.result.transitions += 1
                if after not in self._parents:
                    self._parents[after] = (world, label)
                    waiting.append(after)
        self.result.seconds = time.monotonic() - start
        return self.result

    # States are worlds between two calls, or (world, memory, effects that are left, actions so far) inside one

    def _next(self, state):
        if isinstance(state, World):
            yield from self._changes(state)
            for wish, by_fioconfig in _calls(state):
                early = state.asked_to_wait and wish in {Wish.ROTATE, Wish.UNATTENDED}
                for waits in {early, False}:
                    memory = Memory(wish, by_fioconfig, early=waits, loaded=state.named)
                    yield f"call: {wish.name.lower()}{', too early' * waits}", (state, memory, (), 0)
        else:
            yield from self._inside(*state)

    def _inside(self, world, memory, effects, count):
        if not effects:
            action = self.decide(world, memory)
            if action is Action.DONE or count > MOST_ACTIONS:
                yield from self._ended(world, memory)
            else:
                yield f"  {action.value}", (world, memory, self.actions[action], count + 1)
            return
        first, *rest = effects
        for outcome in first(world, memory):
            if outcome.world.faults > self.faults:
                continue
            left = tuple(rest) if outcome.instead is None else tuple(outcome.instead)
            if memory.wish is Wish.REFUSED and _without_report(outcome.world) != _without_report(world):
                yield "  touched", "a refused request changes more than the journal's events and the history"
            name = getattr(first, "func", first).__name__
            label = f"    {name} {_words(first)}{': ' + outcome.label if outcome.label else ''}"
            yield label, (outcome.world, outcome.memory, left, count)
            if outcome.world._replace(faults=0) != world._replace(faults=0) and outcome.world.faults < self.faults:
                yield from self._cut(outcome.world._replace(faults=outcome.world.faults + 1), outcome.memory, name)

    def decide(self, world, memory):
        """Give the action that the table names, and keep what was found."""
        found = found_in(world, memory)
        if found not in self._decided:
            self._decided[found] = next(row for row in self.table if row.matches(found)).action
            self.result.found.add(found)
        return self._decided[found]

    def _ended(self, world, memory):
        offline = memory.wish is Wish.OFFLINE and not memory.failed and world.named != OTHER
        if memory.refusal and not world.reported_refusal:
            yield "  ends", "a refused request is not reported"
        elif offline and world.config != world.named:
            yield "  ends", f"after `resume --offline` config.encrypted is for the {world.config} key"
        elif not memory.by_fioconfig:
            yield "  ends", _released(world)
        elif is_switched(world, memory):
            yield "  ends with 123: fioconfig restarts", _released(world)._replace(fioconfig=world.named)
        else:
            after = _released(world)
            yield "  ends", after
            yield "  ends; fioconfig stores what it had fetched", after._replace(config=after.fioconfig)

    def _cut(self, world, memory, name):
        yield f"    CUT after {name}, then a boot", world._replace(fioconfig=world.named)
        yield f"    CUT after {name}", world
        if memory.by_fioconfig:
            stored = world._replace(config=world.fioconfig)
            yield f"    CUT after {name}; fioconfig stores what it had fetched", stored

    def _changes(self, world):
        if world.changes >= self.changes:
            return
        changed = world._replace(changes=world.changes + 1)
        if world.request == 1 and 2 not in world.completed:
            yield "the request file asks for rotation 2", changed._replace(request=2)
        if world.request:
            yield "the request file is removed", changed._replace(request=0)
        other = {TAKES: REFUSES, REFUSES: TAKES}.get(world.gateway)
        if other and not world.seen:
            yield f"the gateway from now on {other} the new certificate", changed._replace(gateway=other)
        for early in {world.asked_to_wait, False} if _may_call(world) else ():
            memory = Memory(Wish.REFUSED, by_fioconfig=True, early=early, refusal=True, loaded=world.named, failed=True)
            yield "call: a request that is refused", (changed, memory, (), 0)
        if world.rotation or (world.kept and world.gateway != REPLICAS):  # by hand, that may be the only one taken
            memory = Memory(Wish.ABORT, by_fioconfig=False, loaded=world.named)
            yield "call: abort", (changed, memory, (), 0)
        if world.rotation:
            if world.named == OTHER or world.stopped:
                return
            yield "somebody names another identity, and brings along what the old one reads", _renamed(changed)
            if world.named == NEW and world.old_key:
                yield (
                    "sota.toml is restored from a backup",
                    changed._replace(named=OLD, fioconfig=OLD, stale=world.step >= 5),
                )
            if world.gateway == TAKES and not world.foreign and not (world.named == OLD and world.seen):
                yield "the journal is lost", _lost(changed)

    # What is wrong

    def _wrong(self, state):
        if isinstance(state, str):
            return [state]
        if not isinstance(state, World):
            return ["a call does not end"] if state[3] > MOST_ACTIONS else []
        return broken(state) or self._not_settled(state)

    def _not_settled(self, world):
        """Have a world that behaves come to rest, by calls of fioconfig and `resume` in turn; tell what is left."""
        first = world = world._replace(faults=0, changes=0, asked_to_wait=False)
        if first in self._at_rest:
            return []
        for number in range(CALLS):
            by_fioconfig = number % 2 == 0
            wish = (Wish.ROTATE if world.request else Wish.WITHDRAWN) if by_fioconfig else Wish.RESUME
            world = self._run_well(world, Memory(wish, by_fioconfig, loaded=world.named))
            if not unsettled(world) and not broken(world):
                self._at_rest.add(first)
                return []
        return [f"not at rest: {each}" for each in [*broken(world), *unsettled(world)]]

    def _run_well(self, world, memory):
        """Run one call in which nothing fails."""
        world = world._replace(fioconfig=world.named) if memory.by_fioconfig else world
        effects, count = (), 0
        while True:
            if not effects:
                action = self.decide(world, memory)
                if action is Action.DONE or count > MOST_ACTIONS:
                    return _released(world)._replace(fioconfig=world.named)
                effects, count = self.actions[action], count + 1
                continue
            first, *rest = effects
            outcome = next(each for each in first(world, memory) if each.world.faults == 0)
            world, memory = outcome.world, outcome.memory
            effects = tuple(rest) if outcome.instead is None else tuple(outcome.instead)

    def _story(self, state, why):
        lines = [f"BROKEN: {'; '.join(why)}"]
        while self._parents[state] is not None:
            state, label = self._parents[state]
            lines.append(label)
        return "\n".join(reversed(lines))


def _released(world):
    """Give the world at the end of a call: fioconfig runs again where the journal says that it was stopped."""
    return world._replace(stopped=False, fioconfig=world.named) if world.stopped else world


def _may_call(world):
    """Tell whether fioconfig may call: the gateway takes the certificate that it has loaded, or it has just started."""
    return world.takes(world.fioconfig) or world.fioconfig == world.named


def _calls(world):
    """Give what may call."""
    if _may_call(world):
        yield (Wish.ROTATE if world.request else Wish.WITHDRAWN), True
    yield Wish.RESUME, False
    yield Wish.UNATTENDED, False
    yield Wish.OFFLINE, False


def _without_report(world):
    """Give the world but for what a refused request may change."""
    return world._replace(events_wait=False, reported_refusal=False, asked_to_wait=False, faults=0)


def _renamed(world):
    brought = {OLD: OTHER}
    return world._replace(
        named=OTHER,
        fioconfig=OTHER,
        config=brought.get(world.config, world.config),
        files=brought.get(world.files, world.files),
    )


def _lost(world):
    """Give the world without its journal: the other key is one that nothing names."""
    requested = world._replace(
        rotation=0,
        requested=0,
        step=0,
        lost=True,
        kept=0,
        kept_refused=False,
        success_waits=False,
        events_wait=False,
        certificate=False,
        stale=False,
    )._replace(mark=rules.Mark.NONE, announced=False, files_left=False, reported=False, asked_to_wait=False)
    if world.named != NEW:
        return requested
    swap = {OLD: NEW, NEW: OLD}
    return requested._replace(
        named=OLD,
        old_key=world.new_key,
        new_key=world.old_key,
        config=swap.get(world.config, world.config),
        files=swap.get(world.files, world.files),
        fioconfig=swap.get(world.fioconfig, world.fioconfig),
        seen=False,
    )


def _words(effect):
    keywords = getattr(effect, "keywords", {})
    shown = {name: value for name, value in keywords.items() if not callable(value) and not isinstance(value, tuple)}
    return " ".join(f"{name}={getattr(value, 'name', value)}" for name, value in shown.items())
