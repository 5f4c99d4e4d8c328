"""The abstract world: what lasts when a call is cut off, and what one call knows as well.

Identities are named from the pending rotation's point of view: OLD and NEW are its two, OTHER is one that somebody
else put into the configuration, GONE a key that nobody has any more. When a rotation ends, the one in use becomes OLD.
"""

from typing import NamedTuple

from handler.rotation.found import Call, Kept, Mark, Sight, Taken, Way, Wish

OLD, NEW, OTHER, GONE = "old", "new", "other", "gone"
TAKES, REFUSES, RESETS, REPLICAS = "takes", "refuses", "resets", "replicas"
"""What the gateway does with a new certificate. REFUSES: by whatever answer, or a server before it does. RESETS: its
connections break. REPLICAS: two that learn late, so that one may refuse the new and take the old after the other took
the new."""


class World(NamedTuple):
    """What lasts."""

    # What somebody wants
    request: int = 1
    """The rotation that the request file asks for; 0: there is no file."""
    completed: frozenset[int] = frozenset()
    # The journal
    rotation: int = 0
    step: int = 0
    certificate: bool = False
    announced: bool = False
    files_left: bool = False
    mark: Mark = Mark.NONE
    reported: bool = False
    requested: int = 0
    success_waits: bool = False
    events_wait: bool = False
    asked_to_wait: bool = False
    # The device
    named: str = OLD
    old_key: bool = True
    new_key: bool = False
    config: str = OLD
    """The key that config.encrypted is for."""
    stopped: bool = False
    """fioconfig was stopped by us, says the journal."""
    stale: bool = False
    """Others who use the certificate may have loaded another one than is in use, and no hook has told them."""
    fioconfig: str = OLD
    """The identity that the running fioconfig loaded."""
    foreign: int = 0
    """fioconfig's own rotation lies there, after that step."""
    lost: bool = False
    """The journal was lost."""
    reported_refusal: bool = False
    """The history knows that a request was refused."""
    kept: int = 0
    """The rotation that was rolled back, and whose new identity is kept."""
    kept_refused: bool = False
    """The gateway has refused the old certificate since."""
    # The servers
    files: str = OLD
    """The key that the device's files on the server are for."""
    seen: bool = False
    """The gateway has accepted the new certificate, and no longer accepts the old one."""
    expects_new: bool = False
    """The gateway was told of the new key, and may refuse changes until it sees it."""
    gateway: str = TAKES
    false_success: bool = False
    """A success was reported that is none."""
    locked_out: bool = False
    """The gateway expects a key that was dropped as one that it cannot know."""
    # What the history has cost
    faults: int = 0
    changes: int = 0

    @property
    def known(self):
        """Whether the gateway may know the new key, by the journal."""
        return self.rotation != 0 and (self.step >= 2 or self.announced)

    def has(self, key):
        """Tell whether that key exists."""
        return {OLD: self.old_key, NEW: self.new_key, OTHER: True, GONE: False}[key]

    def takes(self, identity):
        """Tell whether the gateway accepts the certificate of that identity, and has seen it before."""
        if identity == NEW:
            return self.seen
        return identity == OTHER or (identity == OLD and not self.seen)


class Memory(NamedTuple):
    """What one call knows."""

    wish: Wish
    by_fioconfig: bool
    noted: bool = False
    wanted: int = 0
    told: bool = False
    hooked: bool = False
    new: Sight = Sight.UNKNOWN
    old: Taken = Taken.UNKNOWN
    breaks: int = 0
    kept: Kept = Kept.UNWATCHED
    way: Way = Way.UNKNOWN
    call: Call = Call.GOES_ON
    delivered: bool = False
    mended: bool = False
    loaded: str = OLD
    """The identity that the configuration named when the call began."""
    changed: bool = False
    """It was another one when a rotation ended in this call."""
    settled: bool = False
    superseding: bool = False
    failed: bool = False
    early: bool = False
    taken_over: bool = False
    refusal: bool = False
    """The request of this call was refused."""


def without_rotation(world, **changes):
    """Give the world once the journal holds no rotation: the identity in use is the old one of any next."""
    if world.named == OLD:
        rest = {"new_key": world.new_key, "seen": world.seen and changes.get("kept", world.kept) != 0}
        renamed = {}
    else:
        renamed = {NEW: OLD, OLD: GONE} if world.named == NEW else {OTHER: OLD, OLD: GONE, NEW: GONE}
        rest = {"old_key": True, "new_key": False, "seen": False}
        changes = {"kept": 0, **changes}
    return world._replace(
        **rest,
        named=OLD,
        config=renamed.get(world.config, world.config),
        files=renamed.get(world.files, world.files),
        fioconfig=renamed.get(world.fioconfig, world.fioconfig),
        rotation=0,
        step=0,
        certificate=False,
        announced=False,
        files_left=False,
        mark=Mark.NONE,
        reported=False,
        asked_to_wait=False,
        success_waits=False,
        expects_new=False,
        **changes,
    )


def broken(world):
    """List the invariants that are broken in a world after a call."""
    found = []
    if not world.has(world.named):
        found.append(f"the identity in use ({world.named}) has no key")
    if world.named == NEW and not world.certificate:
        found.append("the identity in use has no certificate")
    if not world.has(world.config):
        found.append("config.encrypted is for a key that is gone")
    if not world.has(world.files):
        found.append("the files on the server are for a key that is gone")
    if world.seen and not world.new_key and world.named != OTHER:
        found.append("the gateway takes the new certificate alone, and its key is gone")
    if not world.seen and not world.old_key and world.named != OTHER:
        found.append("the gateway takes the old certificate alone, and its key is gone")
    if world.false_success:
        found.append("a success was reported that is none")
    if world.locked_out:
        found.append("the gateway waits for a key that was dropped as one that it cannot know")
    if world.rotation == 0 and world.stale and not world.foreign:
        found.append("hooks have not told others which identity is in use")
    if world.rotation == 0 and world.stopped:
        found.append("fioconfig stays stopped")
    return found


def unsettled(world):
    """List what is not as it should be once a world that behaves has had its calls."""
    found = []
    if world.kept and not world.new_key:
        found.append("the identity that is kept has no key")
    if world.rotation or world.requested or world.foreign:
        found.append("something is pending")
    if world.events_wait or world.success_waits:
        found.append("events are not delivered")
    if world.config != world.named:
        found.append(f"config.encrypted is for {world.config}, in use is {world.named}")
    if world.files != world.named:
        found.append(f"the files on the server are for {world.files}, in use is {world.named}")
    if world.gateway in {TAKES, REPLICAS} and world.request and world.request not in world.completed:
        found.append("the rotation that is asked for is not complete")
    return found
