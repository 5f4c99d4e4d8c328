"""The table of the rules as the documentation shows it, and why some combinations are never found.

python -m tests.unit.rotation.table
"""

from enum import Enum
from inspect import signature
from typing import get_type_hints

from handler.rotation.found import (
    GOING_BACK,
    PROVED,
    REFUSALS,
    ROTATION,
    Before,
    Found,
    Kept,
    Mark,
    Named,
    Sight,
    Stage,
    Taken,
    Way,
    Wish,
)
from handler.rotation.rules import TABLE

FIELDS = Found._fields
IMPOSSIBLE = {
    "a lost journal is looked at without a rotation": lambda stage, lost: lost and stage is not Stage.NONE,
    "without a rotation there is nothing to say of one": lambda stage, known, mark, named, shown: (
        stage is Stage.NONE and (known, mark, named, shown) != (False, Mark.NONE, Named.OLD, False)
    ),
    "the way back is looked at for a rotation that goes back": lambda way, mark: (
        way is not Way.UNKNOWN and mark not in GOING_BACK
    ),
    "it is back where the configuration names the old identity": lambda way, named: (
        way is Way.BACK and named is not Named.OLD
    ),
    "going back, with the old identity in use and nothing that the gateway knows, is being back": (
        lambda mark, known, named, way: mark in GOING_BACK and not known and named is Named.OLD and way is not Way.BACK
    ),
    "the gateway was told before later steps": lambda stage, known: (
        stage in ROTATION - {Stage.ENROL, Stage.ANNOUNCE} and not known
    ),
    "what is proved is marked by nobody": lambda stage, mark: stage in PROVED and mark is not Mark.NONE,
    "offline, nothing is noted, and no server is met": lambda wish, before, way: (
        wish is Wish.OFFLINE and (before in {Before.UNNOTED, Before.EARLY} or way in {Way.OPEN, Way.CLOSED})
    ),
    "who aborts or withdraws wants no other rotation": lambda wish, wanted, before: (
        wish in {Wish.ABORT, Wish.WITHDRAWN} and wanted and before is Before.READY
    ),
    "only fioconfig waits": lambda waits, wish: waits and wish not in {Wish.ROTATE, Wish.WITHDRAWN},
    "only what is asked for is refused": lambda refusal, wish: (
        refusal and wish not in {Wish.ROTATE, Wish.RESUME, Wish.UNATTENDED, Wish.REFUSED}
    ),
    "a request that is refused as it is read asks for no rotation": lambda wish, wanted, before, new: (
        wish is Wish.REFUSED and (wanted or before is Before.UNNOTED or new is not Sight.UNKNOWN)
    ),
    "a request that is refused as it is read changes nothing": lambda wish, way, kept, lost: (
        wish is Wish.REFUSED and (way in {Way.OPEN, Way.CLOSED} or kept in {Kept.LEFT, Kept.NEEDED} or lost)
    ),
    "only who is called by a timer or by fioconfig can be early": lambda before, wish: (
        before is Before.EARLY and wish not in {Wish.ROTATE, Wish.UNATTENDED, Wish.REFUSED}
    ),
    "a certificate is shown to the gateway where it is to be proved": lambda new, stage, wish, mark: (
        new is not Sight.UNKNOWN and (stage is not Stage.PROVE or wish is Wish.OFFLINE or mark is not Mark.NONE)
    ),
    "what the gateway said to the new certificate was said to one that was shown": lambda new, shown: (
        new is not Sight.UNKNOWN and not shown
    ),
    "the old certificate is tried after the new one": lambda old, new: old is not Taken.UNKNOWN and new not in REFUSALS,
    "what was kept is looked at without a rotation": lambda kept, stage: (
        kept is not Kept.NONE and stage is not Stage.NONE
    ),
    "offline, nobody looks whether the old certificate is taken": lambda kept, wish: (
        kept in {Kept.LEFT, Kept.NEEDED} and wish is Wish.OFFLINE
    ),
    "hooks run once the new identity is proved, or was switched back": lambda hooks, stage, way: (
        hooks and stage is not Stage.TELL and way is not Way.BACK
    ),
    "what is proved was shown": lambda stage, shown: stage in PROVED and not shown,
}
"""Why the loop never finds some combinations, each by the fields that it is about."""
_NEEDED = {why: set(signature(rule).parameters) for why, rule in IMPOSSIBLE.items()}


def why_impossible(found):
    """Say why the loop never finds this combination; None if it may."""
    for why, rule in IMPOSSIBLE.items():
        if rule(**{name: getattr(found, name) for name in _NEEDED[why]}):
            return why
    return None


def possible():
    """Give every combination that is not named as impossible."""
    kinds = get_type_hints(Found)
    values = {name: list(kinds[name]) if issubclass(kinds[name], Enum) else [False, True] for name in FIELDS}
    order = sorted(FIELDS, key=list(_ORDER).index)
    last = {why: max(order.index(name) for name in needed) for why, needed in _NEEDED.items()}
    rules = [[(IMPOSSIBLE[why], _NEEDED[why]) for why in last if last[why] == at] for at in range(len(order))]

    def extended(chosen, at):
        if at == len(order):
            yield Found(**chosen)
            return
        for value in values[order[at]]:
            chosen[order[at]] = value
            if not any(rule(**{each: chosen[each] for each in needed}) for rule, needed in rules[at]):
                yield from extended(chosen, at + 1)

    yield from extended({}, 0)


_ORDER = dict.fromkeys(("stage", "mark", "named", "known", "shown", "wish", "before", "way", "new", "old", *FIELDS))
"""The fields that most depends on come first."""


def as_markdown():
    """Give the table as the documentation shows it."""
    rows = "".join(f"| {row.words} | {row.action.value} |\n" for row in TABLE)
    return f"| found | action |\n| --- | --- |\n{rows}"


if __name__ == "__main__":
    print(as_markdown(), end="")
