"""What one call remembers besides the journal; a power cut loses it, so nothing here has to last."""

from dataclasses import dataclass, field

from handler.device.request import RotationRequest
from handler.errors import PendingError, RenewalError

from .found import Call, Kept, Sight, Taken, Way, Wish
from .rules import Action


@dataclass
class Memory:
    """The purpose of a call, what it has done, and the results."""

    wish: Wish
    request: RotationRequest | None = None
    """The request of `rotate`, until a rotation for it is pending."""
    asked: str | None = None
    """The ROTATIONID that this call is for, if it names one."""
    refused: tuple[str, Exception] | None = None
    """The ROTATIONID of a request that was refused before its rotation started, and why."""
    early: PendingError | None = None
    """Why a server must not be contacted yet."""
    call: Call = Call.GOES_ON
    failure: Exception | None = None
    """The first failure, which ends the call."""
    refused_before: Exception | None = None
    """Why the rotation was refused that rolls back in favour of another one."""
    way: Way = Way.UNKNOWN
    why_closed: str = ""
    new: Sight = Sight.UNKNOWN
    old: Taken = Taken.UNKNOWN
    said: RenewalError | None = None
    """The gateway's answer to the new certificate."""
    old_said: RenewalError | None = None
    """The gateway's answer to the old certificate."""
    unreported: RenewalError | None = None
    """Why the gateway did not accept the events with the new certificate."""
    breaks: int = 0
    """Consecutive connections that broke with the new certificate while the old one was accepted."""
    rounds: int = 0
    """Rounds without a clear answer."""
    kept: Kept = Kept.UNWATCHED
    """What this call found out about the kept identity."""
    hooks: str | None = None
    """Which hooks failed, "" for none; None if they did not run for this rotation."""
    noted: bool = False
    told: bool = False
    """Whether this call has restarted the users of the key."""
    warned: bool = False
    """Whether this call has warned that it cannot stop fioconfig."""
    delivered: bool = False
    """Whether this call has tried to deliver the waiting events."""
    changed: bool = False
    """Whether there was something to give up or to repair."""
    done: set[Action] = field(default_factory=set)
