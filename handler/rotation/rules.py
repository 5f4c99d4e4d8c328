"""The table that decides what a call does next: data, and the only code that decides.

`next_action` gives the action of the first row that matches what was found; the loop (`rotator.py`) looks, acts and
asks again until the answer is DONE. The rules do no I/O, so they can be tried against every state of the world:
tests/unit/rotation/test_rules.py takes every combination, tests/model every history.
docs/architecture.md shows the same table.

An action that fails ends the call (`Call.ENDS`), except for a refusal (`Call.REFUSED`): then the refused rotation is
cleaned up first. What the rows rely on:

* Nothing of the identity that the configuration names is ever destroyed; DROP stands only in rows for the old one,
  and the journal has said before that the rotation ends.
* The gateway sees the new certificate in PROVE for the first time, and only there. Proof is a yes that only it can
  give; everything else proves nothing. No events go out with the old certificate before the journal says "back".
* The old key goes in TIDY, after the proof, and never while fioconfig waits for us and knows only that key.
* A new identity that the gateway may have seen is kept when it is rolled back: a replica may have taken it.
"""

from collections.abc import Mapping
from enum import Enum
from typing import NamedTuple

from .found import (
    GOING_BACK,
    PROVED,
    REFUSALS,
    ROTATION,
    STEPS,
    SWITCHED,
    Before,
    Call,
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


class Action(Enum):
    """What a call can do; actions.py has one function for each."""

    DONE = "done"
    TAKE_OVER = "take over fioconfig's own rotation"
    NOTE = "note in the journal what is wanted"
    WAIT = "leave the server alone, pending"
    MAKE_WHOLE = "make config.encrypted readable with the key in use"
    MEND = "re-encrypt to the key in use what only a lost rotation's key reads"
    GIVE_UP = "give it up, touch nothing in use"
    REFUSE = "refuse: past the point of no return"
    DROP = "drop it: destroy the new key, report the end"
    MARK = "mark it for roll-back"
    ASK = "ask the gateway whether it accepts the old certificate"
    UNMARK = "cancel the roll-back and go forward, pending"
    GO_BACK = "return to the old identity: sota.toml, config.encrypted, the files on the server"
    RETRY = "retry what was refused"
    SWITCH_AGAIN = "switch to the new identity again"
    ENROL = "step 1: new key and certificate"
    ANNOUNCE = "step 2: tell the gateway which key comes next"
    PREPARE = "step 3: encrypt config.encrypted to the new key, aside"
    MOVE = "step 4: encrypt the files on the server to the new key"
    SWITCH = "step 5: sota.toml and config.encrypted"
    PROVE = "show the gateway the new certificate: post the events with it, or get the files"
    ASK_OLD = "ask the gateway with the old certificate"
    RECORD_PROOF = "record the proof"
    TAKE_BACK = "mark it for roll-back: the gateway refuses the new certificate"
    AGAIN = "ask again later, pending; both keys are kept"
    KEEP = "end it, report the end; keep the new identity"
    FORGET = "destroy the identity that was kept"
    WATCH = "ask the gateway whether it still accepts the old certificate"
    RESTORE = "continue with the kept identity if the gateway accepts it"
    FOLLOW = "re-encrypt the device's files to the new key"
    HOOKS = "run the hooks"
    TELL = "restart the services, record the completion"
    TIDY = "remove the old key"
    BEGIN = "check everything, begin"
    DELIVER = "deliver the events"
    REPORT = "report that the request is refused"


class Row(NamedTuple):
    """One rule: `when` lists the values that a field may have; other fields may have any."""

    words: str
    action: Action
    when: Mapping[str, frozenset[object]]

    def matches(self, found: Found) -> bool:
        """Tell whether this rule matches what was found."""
        return all(getattr(found, name) in values for name, values in self.when.items())


def _row(words: str, action: Action, **when: object) -> Row:
    sets = {name: value if isinstance(value, frozenset) else frozenset({value}) for name, value in when.items()}
    return Row(words, action, sets)


# fmt: off
TABLE: tuple[Row, ...] = (
    # A request that is refused before its rotation begins
    _row("a request was refused, and that is not reported yet", Action.REPORT, refusal=True),
    _row("called with a refused request; no rotation is pending, and events wait",
         Action.DELIVER, wish=Wish.REFUSED, before=Before.READY, stage=Stage.NONE, events=True),
    _row("called with a refused request", Action.DONE, wish=Wish.REFUSED),
    # Before anything else
    _row("fioconfig left a rotation of its own", Action.TAKE_OVER, before=Before.FOREIGN, call=Call.GOES_ON),
    _row("the request is not journalled yet", Action.NOTE, before=Before.UNNOTED, call=Call.GOES_ON),
    # Without a network
    _row("offline; the configuration names the new identity",
         Action.MAKE_WHOLE, wish=Wish.OFFLINE, call=Call.GOES_ON, stage=ROTATION, named=Named.NEW),
    _row("offline; rolling back, and the configuration names the old identity",
         Action.MAKE_WHOLE, wish=Wish.OFFLINE, call=Call.GOES_ON, stage=ROTATION, named=Named.OLD, mark=GOING_BACK),
    _row("offline; the journal says switched, or about to be, but the configuration names the old identity",
         Action.MAKE_WHOLE, wish=Wish.OFFLINE, call=Call.GOES_ON, stage=SWITCHED | {Stage.SWITCH}, named=Named.OLD),
    _row("offline; a journal was lost", Action.MEND, wish=Wish.OFFLINE, call=Call.GOES_ON, stage=Stage.NONE, lost=True),
    _row("offline; an identity was kept", Action.MAKE_WHOLE, wish=Wish.OFFLINE, call=Call.GOES_ON, kept=Kept.UNWATCHED),
    _row("offline, otherwise", Action.DONE, wish=Wish.OFFLINE),
    # After a failure
    _row("the call has failed", Action.DONE, call=Call.ENDS),
    _row("refused, with a kept key; the gateway was not told again; the old identity is in use",
         Action.KEEP, stage=ROTATION, mark=Mark.REFUSED, known=False, named=Named.OLD, shown=True),
    _row("refused; the gateway cannot know the new key; the old identity is in use",
         Action.DROP, stage=ROTATION, mark=Mark.REFUSED, known=False, named=Named.OLD),
    _row("refused in this call; another rotation is wanted",
         Action.MARK, call=Call.REFUSED, stage=ROTATION, mark=Mark.REFUSED, wanted=True),
    _row("refused in this call, and no rotation is left; events wait",
         Action.DELIVER, call=Call.REFUSED, stage=Stage.NONE, events=True),
    _row("refused in this call, otherwise", Action.DONE, call=Call.REFUSED),
    # The identity in use was changed from outside
    _row("the configuration names neither identity", Action.GIVE_UP, stage=ROTATION, named=Named.OTHER),
    # A rotation that ends without being finished
    _row("abort; the new certificate is proved", Action.REFUSE, wish=Wish.ABORT, stage=PROVED),
    _row("abort, otherwise", Action.MARK, wish=Wish.ABORT, stage=ROTATION, mark=frozenset(Mark) - {Mark.BY_HAND}),
    _row("rolled back; there are hooks to run", Action.HOOKS, way=Way.BACK, hooks=True),
    _row("rolled back; the gateway may have seen the new certificate",
         Action.KEEP, stage=ROTATION, mark=GOING_BACK, way=Way.BACK, shown=True),
    _row("rolled back; fioconfig waits, and knows only the new key", Action.DONE, way=Way.BACK, waits=True),
    _row("rolled back", Action.DROP, stage=ROTATION, mark=GOING_BACK, way=Way.BACK),
    _row("withdrawn; the gateway cannot know the new key; the old identity is in use",
         Action.MARK, wish=Wish.WITHDRAWN, stage=ROTATION, known=False, named=Named.OLD),
    _row("another rotation is wanted; the gateway cannot know the new key; the old identity is in use",
         Action.MARK, wanted=True, stage=ROTATION, known=False, named=Named.OLD),
    # Refused and not looked at yet, or not due yet
    _row("refused, and the daemon calls; events wait",
         Action.DELIVER, wish=Wish.UNATTENDED, stage=ROTATION, mark=Mark.REFUSED, events=True),
    _row("refused, and the daemon calls", Action.DONE, wish=Wish.UNATTENDED, stage=ROTATION, mark=Mark.REFUSED),
    _row("a server asked to wait, and that time is not over", Action.WAIT, before=Before.EARLY),
    # The way back
    _row("rolling back; not known whether the gateway accepts the old certificate",
         Action.ASK, stage=ROTATION, mark=GOING_BACK, way=Way.UNKNOWN),
    _row("rolling back; the gateway refuses the old certificate", Action.UNMARK, mark=GOING_BACK, way=Way.CLOSED),
    _row("rolling back; the gateway accepts the old certificate", Action.GO_BACK, mark=GOING_BACK, way=Way.OPEN),
    # The way forward
    _row("refused, and a person or fioconfig calls", Action.RETRY, stage=ROTATION, mark=Mark.REFUSED),
    _row("the journal says switched, but the configuration names the old identity",
         Action.SWITCH_AGAIN, stage=SWITCHED, named=Named.OLD),
    _row("the journal says not switched, but the configuration names the new identity",
         Action.SWITCH, stage=STEPS, named=Named.NEW),
    _row("no certificate yet", Action.ENROL, stage=Stage.ENROL),
    _row("enrolled", Action.ANNOUNCE, stage=Stage.ANNOUNCE),
    _row("the gateway knows the next key", Action.PREPARE, stage=Stage.PREPARE),
    _row("config.encrypted is prepared", Action.MOVE, stage=Stage.MOVE),
    _row("the files on the server are moved", Action.SWITCH, stage=Stage.SWITCH),
    _row("switched; the gateway accepts the new certificate", Action.RECORD_PROOF, stage=Stage.PROVE, new=Sight.YES),
    _row("switched; the new certificate was not shown in this round",
         Action.PROVE, stage=Stage.PROVE, new=Sight.UNKNOWN),
    _row("switched; the new certificate may be refused, and the old one was not tried",
         Action.ASK_OLD, stage=Stage.PROVE, new=REFUSALS, old=Taken.UNKNOWN),
    _row("switched; the new certificate is refused again, and the old one is accepted",
         Action.TAKE_BACK, stage=Stage.PROVE, new=Sight.NO_AGAIN, old=Taken.YES),
    _row("switched; the new certificate is refused, and the old one is accepted",
         Action.PROVE, stage=Stage.PROVE, new=REFUSALS, old=Taken.YES),
    _row("switched; no answer tells whether the new certificate is accepted", Action.AGAIN, stage=Stage.PROVE),
    _row("proved; the device's files are still encrypted to the old key", Action.FOLLOW, stage=Stage.FOLLOW),
    _row("proved; there are hooks to run", Action.HOOKS, stage=Stage.TELL, hooks=True),
    _row("proved", Action.TELL, stage=Stage.TELL),
    _row("completion recorded; fioconfig waits, and knows only the old key", Action.DONE, stage=Stage.TIDY, waits=True),
    _row("completion recorded", Action.TIDY, stage=Stage.TIDY),
    # No rotation
    _row("a journal was lost", Action.MEND, lost=True),
    _row("an identity was kept; not known whether the old one is still accepted", Action.WATCH, kept=Kept.UNWATCHED),
    _row("an identity was kept, and the gateway has refused the old one for a minute",
         Action.RESTORE, kept=Kept.NEEDED),
    _row("abort; an identity was kept", Action.FORGET, wish=Wish.ABORT, kept=Kept.LEFT),
    _row("a rotation is wanted", Action.BEGIN, wanted=True, waits=False),
    _row("events wait", Action.DELIVER, events=True),
    _row("nothing is left", Action.DONE),
)
# fmt: on


def next_action(found: Found) -> Action:
    """Return the action of the first row that matches."""
    return next(row for row in TABLE if row.matches(found)).action
