"""What the gateway may say to the new certificate, and what becomes of an identity that was rolled back."""

from handler.rotation.found import Kept, Mark, Sight, Taken, Way

from .effects import OK, Outcome, ended, ends, faulty, is_refused, would_take
from .world import OLD, REPLICAS, RESETS, without_rotation


def report(world, memory):
    """Journal the success before it is reported over the new certificate, the first time."""
    yield Outcome(world if world.reported else world._replace(reported=True, success_waits=True), memory)


def prove(world, memory):
    """Show the gateway the new certificate; what it says is for the rules."""
    for after, sight, label in sights(world):
        breaks = min(memory.breaks + 1, 3) if sight is Sight.BROKEN else 0
        taken = memory.old is Taken.YES
        if taken and (sight is memory.new is Sight.NO or breaks == 3):
            known = memory._replace(new=Sight.NO_AGAIN, breaks=breaks)
        else:
            known = memory._replace(new=sight, old=Taken.UNKNOWN, breaks=breaks)
        yield Outcome(after, known, OK, label)


def sights(world):
    """Give what the gateway, or something in front of it, may say to the new certificate."""
    taken = world._replace(seen=True, success_waits=False, events_wait=False)
    if world.seen or would_take(world):
        yield taken, Sight.YES, ""
        yield faulty(world._replace(seen=True)), Sight.UNCLEAR, "its answer is lost"
        yield faulty(world._replace(seen=True)), Sight.BROKEN, "the connection breaks after the answer"
    if not (world.seen or would_take(world)) or world.gateway == REPLICAS:
        yield world, (Sight.BROKEN if world.gateway == RESETS else Sight.NO), "it is refused"
    yield faulty(world), Sight.NO, "something answers 400, or a page"
    yield faulty(world), Sight.BROKEN, "the connection breaks"
    yield faulty(world), Sight.UNCLEAR, "the gateway cannot answer now"


def ask_old(world, memory):
    """See whether the gateway accepts the old certificate."""
    yes, unclear = memory._replace(old=Taken.YES), memory._replace(old=Taken.UNCLEAR)
    takes = world.takes(OLD)
    yield Outcome(world, yes if takes else unclear)
    if takes:
        yield Outcome(faulty(world), unclear, OK, "the gateway cannot answer now")
    elif world.gateway == REPLICAS:
        yield Outcome(world, yes, OK, "a replica still takes the old one")


def record_proof(world, memory):
    memory = memory._replace(new=Sight.UNKNOWN, old=Taken.UNKNOWN, breaks=0)
    yield Outcome(world._replace(step=6, false_success=not world.seen), memory)


def take_back(world, memory):
    memory = memory._replace(way=Way.OPEN, new=Sight.UNKNOWN, old=Taken.UNKNOWN)
    yield Outcome(world._replace(mark=Mark.TAKEN_BACK), memory)


def end_kept(world, memory):
    going_back = world.mark is Mark.TAKEN_BACK
    kept = world.rotation if world.certificate else world.kept
    after = without_rotation(world, kept=kept, kept_refused=False)._replace(events_wait=True)
    memory = ended(world, memory)._replace(delivered=False, kept=Kept.NONE)
    yield Outcome(after, memory, (is_refused,) if going_back else OK)


def watch(world, memory):
    """Check whether the gateway still accepts the old certificate."""
    left, needed = memory._replace(kept=Kept.LEFT), memory._replace(kept=Kept.NEEDED)
    taken = Outcome(world._replace(kept_refused=False), left)
    if world.kept_refused:
        refused = Outcome(world, needed, OK, "the old certificate is refused again")
    else:
        refused = Outcome(world._replace(kept_refused=True), left, (ends,), "the old certificate is refused")
    takes = world.takes(OLD)
    yield taken if takes else refused
    if takes:
        yield refused._replace(world=faulty(refused.world), label="something answers 403")
    elif world.gateway == REPLICAS:
        yield taken._replace(label="a replica still takes the old one")
    yield Outcome(faulty(world), left, OK, "the gateway cannot answer now")


def restore(world, memory):
    """Continue with the kept identity if the gateway accepts it."""
    rotation = world.kept
    for after, sight, label in sights(world):
        if sight is not Sight.YES:
            yield Outcome(after, memory, (ends,), label)
            continue
        restored = after._replace(
            success_waits=world.success_waits,
            events_wait=world.events_wait,
            kept=0,
            requested=0 if world.requested == rotation else world.requested,
            rotation=rotation,
            step=4,
            certificate=True,
            announced=True,
            files_left=True,
            mark=Mark.NONE,
            reported=False,
        )
        yield Outcome(restored, memory._replace(wanted=0 if memory.wanted == rotation else memory.wanted), OK, label)
