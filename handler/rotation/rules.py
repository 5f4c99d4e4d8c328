"""The table that decides what a call does next. It is data, and the only code that decides.

`next_action` gives the action of the first row that matches what was found; the loop (`rotator.py`) looks, acts and
asks again until the answer is DONE. No row does anything by itself, so the whole table can be tried against every
state of the world: tests/unit/rotation/test_rules.py takes every combination, tests/model every history.
docs/architecture.md shows the same table; `as_markdown` writes it.

An action that fails ends the call (`Call.ENDS`), except for a refusal (`Call.REFUSED`): then what the refused rotation
leaves behind is cleaned up first. What the rows rely on:

* Nothing of the identity that the configuration names is ever destroyed; DROP stands only in rows for the old one,
  and the journal has said before that the rotation ends.
* The gateway sees the new certificate in PROVE for the first time, and only there.
* The old key goes in TIDY, after the proof, and never while fioconfig waits for us and knows only that key.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import Enum, auto


class Wish(Enum):
    """What the call is for."""

    ROTATE = auto()
    """The handler called by fioconfig, `rotate`: the request asks for a rotation."""
    RESUME = auto()
    UNATTENDED = auto()
    """`resume --unattended`: the daemon, so nobody has looked at what was refused."""
    WITHDRAWN = auto()
    """The handler called by fioconfig without a request file."""
    ABORT = auto()
    OFFLINE = auto()
    """`resume --offline`, at boot."""


class Before(Enum):
    """What comes before anything else."""

    READY = auto()
    FOREIGN = auto()
    """A rotation of fioconfig's own code lies there."""
    UNNOTED = auto()
    """The journal does not say yet what this call is for."""
    EARLY = auto()
    """A server asked not to come back yet, and no person asks."""


class Stage(Enum):
    """What comes next by the journal: a step of the rotation that is pending, or NONE without one."""

    NONE = auto()
    ENROL = auto()
    ANNOUNCE = auto()
    PREPARE = auto()
    MOVE = auto()
    SWITCH = auto()
    PROVE = auto()
    FOLLOW = auto()
    """The files of this device on the server were left for the old key."""
    TELL = auto()
    TIDY = auto()


class Named(Enum):
    """Which identity the configuration names."""

    OLD = auto()
    NEW = auto()
    OTHER = auto()


class Mark(Enum):
    """What the journal says beside the stage."""

    NONE = auto()
    REFUSED = auto()
    """A step was refused for good."""
    TAKEN_BACK = auto()
    """Goes back: the gateway refused the new certificate."""
    BY_HAND = auto()
    """Goes back: `abort` asked for it."""
    SUPERSEDED = auto()
    """Goes back: another rotation is wanted, and this one is refused or has hardly begun."""
    WITHDRAWN = auto()
    """Goes back: the request is gone, and the gateway cannot know the new key."""


class Way(Enum):
    """How far the way back is, for a rotation that goes back."""

    UNKNOWN = auto()
    OPEN = auto()
    """The gateway takes the old certificate."""
    CLOSED = auto()
    """It refuses that, or nobody knows which one it was."""
    BACK = auto()
    """The old identity is in use again, and nothing needs the new key."""


class Call(Enum):
    """How this call is doing."""

    GOES_ON = auto()
    REFUSED = auto()
    """Something was refused for good in this call."""
    ENDS = auto()
    """It failed, or has done what it could."""


@dataclass(frozen=True)
class Found:
    """What was found, all that a decision depends on."""

    wish: Wish
    before: Before = Before.READY
    stage: Stage = Stage.NONE
    named: Named = Named.OLD
    known: bool = False
    """The gateway may know the new key."""
    mark: Mark = Mark.NONE
    way: Way = Way.UNKNOWN
    wanted: bool = False
    """Another rotation than the pending one is wanted, and not completed."""
    waits: bool = False
    """fioconfig waits for this call, which has changed the key: it knows only the old one."""
    call: Call = Call.GOES_ON
    events: bool = False
    """Events wait that this call has not tried to deliver."""
    lost: bool = False
    """The journal of an earlier rotation was lost, and what it left is to be looked at by this call."""


class Action(Enum):
    """What can be done. The loop has one method for each."""

    DONE = "done"
    TAKE_OVER = "take over fioconfig's own rotation"
    NOTE = "note in the journal what is wanted"
    WAIT = "leave the server alone, pending"
    MAKE_WHOLE = "make config.encrypted readable with the key in use"
    MEND = "move what only a lost rotation's key reads to the key in use"
    GIVE_UP = "give it up, touch nothing in use"
    REFUSE = "refuse: past the point of no return"
    DROP = "drop it: destroy the new key, report the end"
    MARK = "mark it: it goes back"
    ASK = "ask the gateway whether it takes the old certificate"
    UNMARK = "go forward again, pending"
    GO_BACK = "return to the old identity: sota.toml, config.encrypted, the files on the server"
    RETRY = "try again what was refused"
    SWITCH_AGAIN = "switch to the new identity again"
    ENROL = "step 1: new key and certificate"
    ANNOUNCE = "step 2: tell the gateway which key comes next"
    PREPARE = "step 3: encrypt config.encrypted to the new key, aside"
    MOVE = "step 4: encrypt the files on the server to the new key"
    SWITCH = "step 5: sota.toml and config.encrypted"
    PROVE = "report over the new certificate: the gateway's first sight of it"
    FOLLOW = "bring the device's files along"
    TELL = "restart its users, record the completion"
    TIDY = "remove the old key"
    BEGIN = "check everything, begin"
    DELIVER = "deliver the events"


ROTATION = frozenset(Stage) - {Stage.NONE}
STEPS = frozenset({Stage.ENROL, Stage.ANNOUNCE, Stage.PREPARE, Stage.MOVE, Stage.SWITCH})
SWITCHED = ROTATION - STEPS
PROVED = SWITCHED - {Stage.PROVE}
GOING_BACK = frozenset(Mark) - {Mark.NONE, Mark.REFUSED}


@dataclass(frozen=True)
class Row:
    """One rule: `when` names the values that a field may have; a field that it does not name may have any."""

    words: str
    action: Action
    when: Mapping[str, frozenset[object]]

    def matches(self, found: Found) -> bool:
        """Tell whether this rule is about what was found."""
        return all(getattr(found, name) in values for name, values in self.when.items())


def _row(words: str, action: Action, **when: object) -> Row:
    sets = {name: value if isinstance(value, frozenset) else frozenset({value}) for name, value in when.items()}
    return Row(words, action, sets)


# fmt: off
TABLE: tuple[Row, ...] = (
    _row("fioconfig's own rotation lies there", Action.TAKE_OVER, before=Before.FOREIGN, call=Call.GOES_ON),
    _row("the journal does not know yet what is wanted", Action.NOTE, before=Before.UNNOTED, call=Call.GOES_ON),
    # Without a network
    _row("offline; the configuration names the new identity",
         Action.MAKE_WHOLE, wish=Wish.OFFLINE, call=Call.GOES_ON, stage=ROTATION, named=Named.NEW),
    _row("offline; goes back, and the configuration names the old identity",
         Action.MAKE_WHOLE, wish=Wish.OFFLINE, call=Call.GOES_ON, stage=ROTATION, named=Named.OLD, mark=GOING_BACK),
    _row("offline; switched by the journal, or about to be, but the configuration names the old identity",
         Action.MAKE_WHOLE, wish=Wish.OFFLINE, call=Call.GOES_ON, stage=SWITCHED | {Stage.SWITCH}, named=Named.OLD),
    _row("offline; a journal was lost", Action.MEND, wish=Wish.OFFLINE, call=Call.GOES_ON, stage=Stage.NONE, lost=True),
    _row("offline, otherwise", Action.DONE, wish=Wish.OFFLINE),
    # After a failure
    _row("the call ends", Action.DONE, call=Call.ENDS),
    _row("a refused rotation; the gateway cannot know the new key; the old one is in use",
         Action.DROP, stage=ROTATION, mark=Mark.REFUSED, known=False, named=Named.OLD),
    _row("refused in this call; another rotation is wanted",
         Action.MARK, call=Call.REFUSED, stage=ROTATION, mark=Mark.REFUSED, wanted=True),
    _row("refused in this call, otherwise", Action.DONE, call=Call.REFUSED, stage=ROTATION),
    _row("refused in this call, and no rotation is left; events wait", Action.DELIVER, call=Call.REFUSED, events=True),
    _row("refused in this call, and no rotation is left", Action.DONE, call=Call.REFUSED),
    # A rotation that somebody else ended
    _row("the configuration names neither identity", Action.GIVE_UP, stage=ROTATION, named=Named.OTHER),
    # A rotation that ends without being finished
    _row("abort; proved", Action.REFUSE, wish=Wish.ABORT, stage=PROVED),
    _row("abort, otherwise", Action.MARK, wish=Wish.ABORT, stage=ROTATION, mark=frozenset(Mark) - {Mark.BY_HAND}),
    _row("goes back, and is back; fioconfig waits, and knows only the new key", Action.DONE, way=Way.BACK, waits=True),
    _row("goes back, and is back", Action.DROP, stage=ROTATION, mark=GOING_BACK, way=Way.BACK),
    _row("withdrawn; the gateway cannot know the new key; the old one is in use",
         Action.MARK, wish=Wish.WITHDRAWN, stage=ROTATION, known=False, named=Named.OLD),
    _row("another rotation is wanted; the gateway cannot know the new key; the old one is in use",
         Action.MARK, wanted=True, stage=ROTATION, known=False, named=Named.OLD),
    # What nobody has looked at, and what is not due
    _row("refused, and the daemon calls; events wait",
         Action.DELIVER, wish=Wish.UNATTENDED, stage=ROTATION, mark=Mark.REFUSED, events=True),
    _row("refused, and the daemon calls", Action.DONE, wish=Wish.UNATTENDED, stage=ROTATION, mark=Mark.REFUSED),
    _row("a server asked not to come back yet", Action.WAIT, before=Before.EARLY),
    # The way back
    _row("goes back; not known whether it can", Action.ASK, stage=ROTATION, mark=GOING_BACK, way=Way.UNKNOWN),
    _row("goes back; the gateway refuses the old certificate", Action.UNMARK, mark=GOING_BACK, way=Way.CLOSED),
    _row("goes back; the gateway takes the old certificate", Action.GO_BACK, mark=GOING_BACK, way=Way.OPEN),
    # The way forward
    _row("refused, and somebody asks", Action.RETRY, stage=ROTATION, mark=Mark.REFUSED),
    _row("switched by the journal, but the configuration names the old identity",
         Action.SWITCH_AGAIN, stage=SWITCHED, named=Named.OLD),
    _row("not switched by the journal, but the configuration names the new identity",
         Action.SWITCH, stage=STEPS, named=Named.NEW),
    _row("no certificate yet", Action.ENROL, stage=Stage.ENROL),
    _row("enrolled", Action.ANNOUNCE, stage=Stage.ANNOUNCE),
    _row("the gateway was told", Action.PREPARE, stage=Stage.PREPARE),
    _row("config.encrypted is prepared", Action.MOVE, stage=Stage.MOVE),
    _row("the files on the server are moved", Action.SWITCH, stage=Stage.SWITCH),
    _row("switched", Action.PROVE, stage=Stage.PROVE),
    _row("proved; the device's files were left", Action.FOLLOW, stage=Stage.FOLLOW),
    _row("proved", Action.TELL, stage=Stage.TELL),
    _row("told; fioconfig waits, and knows only the old key", Action.DONE, stage=Stage.TIDY, waits=True),
    _row("told", Action.TIDY, stage=Stage.TIDY),
    # No rotation
    _row("a journal was lost", Action.MEND, lost=True),
    _row("a rotation is wanted", Action.BEGIN, wanted=True, waits=False),
    _row("events wait", Action.DELIVER, events=True),
    _row("nothing is left", Action.DONE),
)
# fmt: on


def next_action(found: Found) -> Action:
    """Give the action of the first row that matches."""
    return next(row for row in TABLE if row.matches(found)).action


def why_impossible(found: Found) -> str | None:
    """Say why the loop never finds this combination; None where it may."""
    rotation = found.stage is not Stage.NONE
    impossible = {
        "without a rotation there is nothing to say of one": not rotation
        and (found.known, found.mark, found.named) != (False, Mark.NONE, Named.OLD),
        "the way back is looked at for a rotation that goes back": found.way is not Way.UNKNOWN
        and found.mark not in GOING_BACK,
        "it is back where the configuration names the old identity": found.way is Way.BACK
        and found.named is not Named.OLD,
        "going back, with the old identity in use and nothing that the gateway knows, is being back": (
            found.mark in GOING_BACK and not found.known and found.named is Named.OLD and found.way is not Way.BACK
        ),
        "the gateway was told before later steps": found.stage in ROTATION - {Stage.ENROL, Stage.ANNOUNCE}
        and not found.known,
        "what is proved is marked by nobody": found.stage in PROVED and found.mark is not Mark.NONE,
        "offline, nothing is noted, and no server is met": found.wish is Wish.OFFLINE
        and (found.before in {Before.UNNOTED, Before.EARLY} or found.way in {Way.OPEN, Way.CLOSED}),
        "who aborts or withdraws wants no other rotation": found.wish in {Wish.ABORT, Wish.WITHDRAWN}
        and found.wanted
        and found.before is Before.READY,
        "only fioconfig waits": found.waits and found.wish not in {Wish.ROTATE, Wish.WITHDRAWN},
        "only who is called by a timer or by fioconfig can be early": found.before is Before.EARLY
        and found.wish not in {Wish.ROTATE, Wish.UNATTENDED},
        "a lost journal is looked at without a rotation": found.lost and rotation,
    }
    return next((why for why, holds in impossible.items() if holds), None)


def as_markdown() -> str:
    """Give the table as the documentation shows it."""
    rows = "".join(f"| {row.words} | {row.action.value} |\n" for row in TABLE)
    return f"| found | action |\n| --- | --- |\n{rows}"


FIELDS = tuple(field.name for field in fields(Found))
