"""Rules and effects that are wrong on purpose: the model has to find each of them."""

from handler.rotation.found import Sight, Stage
from handler.rotation.rules import TABLE, Action

from .actions import ACTIONS, retire_old
from .effects import ask, ends
from .proving import end_kept
from .world import OLD


def _without(words):
    left = tuple(row for row in TABLE if row.words != words)
    assert len(left) == len(TABLE) - 1, words
    return left


def _instead(words, action):
    assert any(row.words == words for row in TABLE), words
    return tuple(row._replace(action=action) if row.words == words else row for row in TABLE)


def _with(words, **when):
    """Give the table with another condition in one row; None takes a condition away."""
    assert any(row.words == words for row in TABLE), words
    changed = {
        name: frozenset(value if isinstance(value, tuple) else {value})
        for name, value in when.items()
        if value is not None
    }
    return tuple(
        row._replace(when={k: v for k, v in {**row.when, **changed}.items() if when.get(k, v) is not None})
        if row.words == words
        else row
        for row in TABLE
    )


def _swapped(first, second):
    rows = {row.words: row for row in TABLE}
    other = {first: rows[second], second: rows[first]}
    return tuple(other.get(row.words, row) for row in TABLE)


def _announce_unrecorded(world, memory):
    """Step 2 whose record comes after the request."""
    for outcome in ask(world, memory, OLD, {"expects_new": True}):
        yield (
            outcome._replace(world=outcome.world._replace(step=max(2, outcome.world.step)))
            if (outcome.instead is None)
            else outcome._replace(instead=(ends,))
        )


def _kept_without_withdrawal(world, memory):
    """Let an undelivered success stay in the journal of a rotation that was rolled back."""
    for outcome in end_kept(world, memory):
        waits = world.success_waits
        yield outcome._replace(world=outcome.world._replace(success_waits=waits, false_success=waits))


WITHDRAWN = "withdrawn; the gateway cannot know the new key; the old identity is in use"
WANTED = "another rotation is wanted; the gateway cannot know the new key; the old identity is in use"
UNSEEN = "switched; the new certificate was not shown in this round"
YES = "switched; the gateway accepts the new certificate"
_TABLES = {
    "a refused request is not reported": _without("a request was refused, and that is not reported yet"),
    "a refused request is delivered with a certificate that is new to the gateway": _with(
        "called with a refused request; no rotation is pending, and events wait", stage=None
    ),
    "a refused request goes on with what is pending": _without("called with a refused request"),
    "HTTP 400 is proof": _with(YES, new=(Sight.YES, Sight.NO)),
    "a broken connection is proof": _with(YES, new=(Sight.YES, Sight.BROKEN)),
    "what the gateway may have taken is destroyed": _instead(
        "rolled back; the gateway may have seen the new certificate", Action.DROP
    ),
    "what is kept is forgotten unasked": _instead(
        "an identity was kept; not known whether the old one is still accepted", Action.FORGET
    ),
    "the kept identity is not tried": _instead(
        "an identity was kept, and the gateway has refused the old one for a minute", Action.DONE
    ),
    "the old key is retired before the proof": _instead(UNSEEN, Action.TIDY),
    "a rotation that the gateway may know of is dropped at once": _with(WITHDRAWN, known=None),
    "dropped for another one though the gateway may know it": _with(WANTED, known=None),
    "dropped without a word in the journal before": _instead(WITHDRAWN, Action.DROP),
    "what goes back is dropped before it is back": _instead(
        "rolling back; the gateway accepts the old certificate", Action.DROP
    ),
    "no look whether there is a way back": _instead(
        "rolling back; the gateway refuses the old certificate", Action.GO_BACK
    ),
    "the old key goes while fioconfig waits with it": _without(
        "completion recorded; fioconfig waits, and knows only the old key"
    ),
    "the new key goes while fioconfig waits with it": _without(
        "rolled back; fioconfig waits, and knows only the new key"
    ),
    "a backup of sota.toml is not noticed": _without(
        "the journal says switched, but the configuration names the old identity"
    ),
    "offline, half a switch is left": _without("offline; the configuration names the new identity"),
    "the files that were left are forgotten": _instead(
        "proved; the device's files are still encrypted to the old key", Action.TELL
    ),
    "nobody runs the hooks after a proof": _without("proved; there are hooks to run"),
    "nobody runs the hooks after a roll-back": _without("rolled back; there are hooks to run"),
    "hooks run before the proof": _with("proved; there are hooks to run", stage=Stage.PROVE),
    "complete without a proof": _instead(UNSEEN, Action.TELL),
    "two rows are swapped": _swapped(
        "switched; the new certificate may be refused, and the old one was not tried",
        "switched; no answer tells whether the new certificate is accepted",
    ),
    "a refused rotation stays for good": _instead("refused, and a person or fioconfig calls", Action.DONE),
    "somebody else's identity is switched away": _instead("the configuration names neither identity", Action.SWITCH),
    "sota.toml is switched before the files are moved": _instead("config.encrypted is prepared", Action.SWITCH),
}
_EFFECTS = {
    "the gateway is told before the journal is": {Action.ANNOUNCE: (_announce_unrecorded,)},
    "the old key goes before config.encrypted is whole": {
        Action.TIDY: (retire_old, *(each for each in ACTIONS[Action.TIDY] if each is not retire_old))
    },
    "a success is not withdrawn": {Action.KEEP: (*ACTIONS[Action.KEEP][:-1], _kept_without_withdrawal)},
    "the journal is closed before fioconfig runs again": {
        Action.DROP: (ACTIONS[Action.DROP][0], ACTIONS[Action.DROP][2], ACTIONS[Action.DROP][1])
    },
}
FAULTS = {
    **{name: (table, ACTIONS) for name, table in _TABLES.items()},
    **{name: (TABLE, {**ACTIONS, **changed}) for name, changed in _EFFECTS.items()},
}
"""What is wrong, by name: a table and the effects of its actions."""
DEEP = {
    "the kept identity is not tried": (1, 6),
    "dropped without a word in the journal before": (2, 3),
    "the new key goes while fioconfig waits with it": (2, 0),
    "the files that were left are forgotten": (1, 6),
    "the gateway is told before the journal is": (1, 3),
}
"""Where to begin looking for what is found late: how many faults on a path, and which start."""
