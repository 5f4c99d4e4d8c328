"""What one call remembers beside the journal: gone when it is cut off, so nothing that has to last."""

from dataclasses import dataclass, field

from handler.device.request import RotationRequest
from handler.errors import RenewalError

from .found import Call, Kept, Sight, Taken, Way, Wish
from .rules import Action


@dataclass
class Memory:
    """What a call is for, what it has done, and what has come of it."""

    wish: Wish
    request: RotationRequest | None = None
    """What `rotate` asks for, until it is the pending rotation's."""
    refused: tuple[str, Exception] | None = None
    """The ROTATIONID of a request that was refused before its rotation began, and why."""
    early: str | None = None
    """Why a server is to be left alone."""
    call: Call = Call.GOES_ON
    failure: Exception | None = None
    """The first one, which the call ends with."""
    refused_before: Exception | None = None
    """Why a rotation was refused that goes back for another one."""
    way: Way = Way.UNKNOWN
    why_closed: str = ""
    new: Sight = Sight.UNKNOWN
    old: Taken = Taken.UNKNOWN
    said: RenewalError | None = None
    """What the gateway said to the new certificate."""
    old_said: RenewalError | None = None
    """What it said to the old one."""
    unreported: RenewalError | None = None
    """Why the gateway did not take the events over it."""
    breaks: int = 0
    """Connections in a row that broke on the new certificate while the old one was taken."""
    rounds: int = 0
    """Rounds in which nothing became clear."""
    kept: Kept = Kept.UNWATCHED
    """What this call found of the identity that was kept."""
    noted: bool = False
    told: bool = False
    """The new key's users were told by this call."""
    delivered: bool = False
    """What waits was tried to be delivered."""
    changed: bool = False
    """There was something to give up, or to make whole."""
    done: set[Action] = field(default_factory=set)
