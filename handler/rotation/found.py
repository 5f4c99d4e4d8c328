"""The values that a decision depends on."""

from enum import Enum, auto
from typing import NamedTuple


class Wish(Enum):
    """The purpose of the call."""

    ROTATE = auto()
    """The handler called by fioconfig, `rotate`: the request asks for a rotation."""
    RESUME = auto()
    UNATTENDED = auto()
    """`resume --unattended`: the daemon calls, so what was refused is not retried."""
    WITHDRAWN = auto()
    """The handler called by fioconfig without a request file."""
    ABORT = auto()
    OFFLINE = auto()
    """`resume --offline`, at boot."""
    REFUSED = auto()
    """`rotate`, or the handler, with a request that is refused as it is read."""


class Before(Enum):
    """What has to be settled before anything else."""

    READY = auto()
    FOREIGN = auto()
    """fioconfig's own code has left a rotation."""
    UNNOTED = auto()
    """The journal does not hold the purpose of this call yet."""
    EARLY = auto()
    """A server asked for a delay, and no person is calling."""


class Stage(Enum):
    """What comes next by the journal: a step of the pending rotation; NONE without one."""

    NONE = auto()
    ENROL = auto()
    ANNOUNCE = auto()
    PREPARE = auto()
    MOVE = auto()
    SWITCH = auto()
    PROVE = auto()
    FOLLOW = auto()
    """The device's files on the server are still encrypted to the old key."""
    TELL = auto()
    TIDY = auto()


class Named(Enum):
    """Which identity the configuration names."""

    OLD = auto()
    NEW = auto()
    OTHER = auto()


class Mark(Enum):
    """What the journal says about the end of the rotation."""

    NONE = auto()
    REFUSED = auto()
    """A step was permanently refused."""
    TAKEN_BACK = auto()
    """Rolls back: the gateway refused the new certificate."""
    BY_HAND = auto()
    """Rolls back: `abort` was called."""
    SUPERSEDED = auto()
    """Rolls back: another rotation is wanted, and this one is refused or is not known to the gateway."""
    WITHDRAWN = auto()
    """Rolls back: the request is gone, and the gateway cannot know the new key."""


class Way(Enum):
    """Whether a rotation that rolls back can do so."""

    UNKNOWN = auto()
    OPEN = auto()
    """The gateway accepts the old certificate."""
    CLOSED = auto()
    """It refuses the old certificate, or that is unknown."""
    BACK = auto()
    """The old identity is in use again, and nothing needs the new key any more."""


class Sight(Enum):
    """The gateway's answer to the new certificate."""

    UNKNOWN = auto()
    YES = auto()
    """An answer that only the gateway can give."""
    NO = auto()
    """Another final answer, or an alert about the certificate; something in front of the gateway may have sent it."""
    BROKEN = auto()
    """The connection was established, then broke."""
    NO_AGAIN = auto()
    """NO twice, or BROKEN three times, on fresh connections, while the old certificate was accepted."""
    UNCLEAR = auto()
    """An answer that says nothing about the certificate."""


class Taken(Enum):
    """Whether the gateway accepts the old certificate, while it may refuse the new one."""

    UNKNOWN = auto()
    YES = auto()
    UNCLEAR = auto()
    """Anything but a yes."""


class Kept(Enum):
    """What is known about the kept identity of an earlier rotation that was rolled back."""

    NONE = auto()
    UNWATCHED = auto()
    """This call has not checked yet whether the gateway still accepts the old certificate."""
    LEFT = auto()
    """It does, or that is unclear."""
    NEEDED = auto()
    """It has refused it for at least a minute."""


class Call(Enum):
    """The state of this call."""

    GOES_ON = auto()
    REFUSED = auto()
    """Something was permanently refused in this call."""
    ENDS = auto()
    """The call failed, or has done what it could."""


class Found(NamedTuple):
    """Everything that a decision depends on."""

    wish: Wish
    before: Before = Before.READY
    stage: Stage = Stage.NONE
    named: Named = Named.OLD
    known: bool = False
    """Whether the gateway may know the new key."""
    mark: Mark = Mark.NONE
    way: Way = Way.UNKNOWN
    new: Sight = Sight.UNKNOWN
    """The gateway's answer to the new certificate in this round."""
    old: Taken = Taken.UNKNOWN
    """Whether the gateway accepts the old certificate, asked after that."""
    shown: bool = False
    """Whether the gateway may have seen the new certificate."""
    kept: Kept = Kept.NONE
    wanted: bool = False
    """Whether another rotation than the pending one is wanted and not complete."""
    waits: bool = False
    """Whether fioconfig waits for this call, which has switched the key: it knows only the old one."""
    hooks: bool = False
    """Whether there are hooks that this call has not run since the proof or the roll-back."""
    call: Call = Call.GOES_ON
    events: bool = False
    """Whether there are events that this call has not tried to deliver."""
    lost: bool = False
    """Whether the journal of an earlier rotation was lost, and this call has to repair what it left."""
    refusal: bool = False
    """Whether this call's request was refused before its rotation started, and that is not reported yet."""


ROTATION = frozenset(Stage) - {Stage.NONE}
STEPS = frozenset({Stage.ENROL, Stage.ANNOUNCE, Stage.PREPARE, Stage.MOVE, Stage.SWITCH})
SWITCHED = ROTATION - STEPS
PROVED = SWITCHED - {Stage.PROVE}
GOING_BACK = frozenset(Mark) - {Mark.NONE, Mark.REFUSED}
REFUSALS = frozenset({Sight.NO, Sight.BROKEN, Sight.NO_AGAIN})
