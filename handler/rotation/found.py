"""What can be found, all that a decision depends on: values, and nothing that does anything."""

from dataclasses import dataclass
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
    REFUSED = auto()
    """`rotate`, or the handler, with a request that is refused as it is read."""


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


class Sight(Enum):
    """What the gateway says to a certificate."""

    UNKNOWN = auto()
    YES = auto()
    """An answer that only the gateway can give."""
    NO = auto()
    """Another final answer, or an alert about the certificate; anything in front of the gateway may have said it."""
    BROKEN = auto()
    """The connection was there, and broke."""
    NO_AGAIN = auto()
    """NO twice, or BROKEN three times, on fresh connections, while the old certificate was taken."""
    UNCLEAR = auto()
    """Nothing that is about the certificate."""


class Taken(Enum):
    """Whether the gateway takes the old certificate, asked while it may refuse the new one."""

    UNKNOWN = auto()
    YES = auto()
    UNCLEAR = auto()
    """Anything but a yes."""


class Kept(Enum):
    """What is known of the identity that was rolled back before and is kept."""

    NONE = auto()
    UNWATCHED = auto()
    """This call has not looked whether the gateway still takes the old certificate."""
    LEFT = auto()
    """It does, or nobody knows."""
    NEEDED = auto()
    """It has refused that for good for a minute."""


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
    new: Sight = Sight.UNKNOWN
    """What the gateway says to the new certificate, in this round."""
    old: Taken = Taken.UNKNOWN
    """Whether it takes the old one, asked after that."""
    shown: bool = False
    """The gateway may have seen the new certificate."""
    kept: Kept = Kept.NONE
    wanted: bool = False
    """Another rotation than the pending one is wanted, and not completed."""
    waits: bool = False
    """fioconfig waits for this call, which has changed the key: it knows only the old one."""
    call: Call = Call.GOES_ON
    events: bool = False
    """Events wait that this call has not tried to deliver."""
    lost: bool = False
    """The journal of an earlier rotation was lost, and what it left is to be looked at by this call."""
    refusal: bool = False
    """This call's request was refused before a rotation of it began, and that is not reported yet."""


ROTATION = frozenset(Stage) - {Stage.NONE}
STEPS = frozenset({Stage.ENROL, Stage.ANNOUNCE, Stage.PREPARE, Stage.MOVE, Stage.SWITCH})
SWITCHED = ROTATION - STEPS
PROVED = SWITCHED - {Stage.PROVE}
GOING_BACK = frozenset(Mark) - {Mark.NONE, Mark.REFUSED}
REFUSALS = frozenset({Sight.NO, Sight.BROKEN, Sight.NO_AGAIN})
