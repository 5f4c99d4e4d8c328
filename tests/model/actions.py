"""What each action of the rules does in the abstract world: a sequence of effects, each of which can be the last.

An effect is a function of world and memory that yields what can come of it. A server's answer can be lost after it did
its work, put off, or be wrong; each of these is a fault, and costs one.
"""

from functools import partial

from handler.rotation.found import GOING_BACK, Before, Call, Found, Kept, Mark, Named, Sight, Stage, Taken, Way, Wish
from handler.rotation.rules import Action

from .effects import (
    OK,
    STEP_REFUSED,
    Outcome,
    ask,
    ended,
    ends,
    enrol_at_server,
    faulty,
    is_refused,
    remember,
    start_fioconfig,
    step_done,
    stop_fioconfig,
    write,
)
from .proving import ask_old, end_kept, prove, record_proof, report, restore, take_back, watch
from .world import NEW, OLD, OTHER, without_rotation

STAGES = (Stage.ENROL, Stage.ANNOUNCE, Stage.PREPARE, Stage.MOVE, Stage.SWITCH, Stage.PROVE, Stage.TELL, Stage.TIDY)


def found_in(world, memory):
    """Give what the loop would find."""
    rotation = world.rotation != 0
    named = {OLD: Named.OLD, NEW: Named.NEW, OTHER: Named.OTHER}[world.named] if rotation else Named.OLD
    wanted = _wanted(world, memory)
    stage = Stage.NONE
    if rotation:
        stage = STAGES[world.step]
        if world.step < 5 and named is Named.OLD and not world.certificate:
            stage = Stage.ENROL
        if world.step == 6 and world.files_left:
            stage = Stage.FOLLOW
    mark = world.mark if rotation else Mark.NONE
    way = memory.way if mark in GOING_BACK else Way.UNKNOWN
    if mark in GOING_BACK and named is Named.OLD and not world.known:
        way = Way.BACK
    before = Before.EARLY if memory.early else Before.READY
    if not memory.noted and memory.wish in {Wish.ROTATE, Wish.ABORT, Wish.WITHDRAWN}:
        before = Before.UNNOTED
    if world.foreign and not memory.taken_over:
        before = Before.FOREIGN
    switched = is_switched(world, memory)
    proving = stage is Stage.PROVE and mark is Mark.NONE
    return Found(
        wish=memory.wish,
        before=before,
        stage=stage,
        named=named,
        known=world.known,
        mark=mark,
        way=way,
        wanted=bool(wanted),
        waits=memory.by_fioconfig and (switched or memory.told),
        hooks=not memory.hooked and (stage is Stage.TELL or (way is Way.BACK and world.step >= 5)),
        call=memory.call,
        new=memory.new if proving else Sight.UNKNOWN,
        old=memory.old if proving else Taken.UNKNOWN,
        shown=rotation and (world.reported or world.step >= 6 or world.kept != 0),
        kept=Kept.NONE if rotation or not world.kept else memory.kept,
        events=(world.events_wait or world.success_waits) and not memory.delivered,
        lost=world.lost
        and not rotation
        and not memory.mended
        and memory.wish in {Wish.RESUME, Wish.UNATTENDED, Wish.OFFLINE},
        refusal=memory.refusal and not world.reported_refusal,
    )


def is_switched(world, memory):
    """Tell whether fioconfig has to load another key than it had at the beginning of this call."""
    return memory.changed or memory.settled or world.named != memory.loaded


def _wanted(world, memory):
    if memory.wish is Wish.ROTATE:
        return memory.wanted if memory.noted else 0
    return world.requested if memory.wish in {Wish.RESUME, Wish.UNATTENDED} else 0


# The actions


def note(world, memory):
    request = world.request if memory.wish is Wish.ROTATE else 0
    changes, wanted = {}, 0
    if not request:
        changes["requested"] = 0
    elif world.rotation == request:
        wanted = request if world.mark is Mark.REFUSED and not world.known else 0
        if memory.by_fioconfig:
            changes["requested"] = wanted
    elif request not in world.completed:
        wanted = request
        if world.rotation or world.kept:
            changes["requested"] = request
    yield Outcome(world._replace(**changes), memory._replace(noted=True, wanted=wanted))


def take_over(world, memory):
    if world.rotation == 0:
        step = min(world.foreign, 5 if world.named == NEW else 2)
        world = world._replace(
            rotation=world.request or 1, step=step, certificate=True, announced=True, reported=False, mark=Mark.NONE
        )
    yield Outcome(world, memory)


def mend_before(world, memory):
    """Mend what a lost journal left before another rotation takes its places; a refusal ends the call."""
    if not world.lost or not world.new_key:
        yield Outcome(world, memory)
        return
    keep = (partial(write, requested=_wanted(world, memory)), ends)
    config = OLD if world.config == NEW else world.config
    files = OLD if world.files == NEW else world.files
    for outcome in ask(world._replace(config=config), memory, OLD, {"files": files, "lost": False}):
        yield outcome._replace(instead=keep) if outcome.instead == (ends,) else outcome


def check_and_begin(world, memory):
    wanted = _wanted(world, memory)
    yield Outcome(world, memory)
    yield Outcome(faulty(world)._replace(requested=wanted), memory, (ends,), "the checks cannot be made now")
    requested = 0 if world.requested == wanted else world.requested
    refused = faulty(world)._replace(requested=requested)
    yield Outcome(refused, memory._replace(refusal=True), (is_refused,), "the checks refuse it")


def check_superseding(world, memory):
    """Check what another rotation needs before it supersedes the pending one."""
    if _wanted(world, memory) and not memory.failed:
        yield from check_and_begin(world, memory)
    else:
        yield Outcome(world, memory)


def open_journal(world, memory):
    wanted = _wanted(world, memory)
    world = without_rotation(world)._replace(rotation=wanted, requested=0, events_wait=True)
    yield Outcome(world, memory._replace(wanted=0))


def announce_first(world, memory):
    """Journal that the gateway is told, before it is."""
    yield Outcome(world._replace(announced=True), memory)


def tell_gateway(world, memory, before):
    forget = partial(write, announced=before)
    keep_if_told = partial(write, announced=True)
    denied = (keep_if_told if before else forget, *STEP_REFUSED)
    yield from ask(world, memory, OLD, {"expects_new": True}, (forget, *STEP_REFUSED), denied)


def announce(world, memory):
    """Step 2, even if the old certificate is no longer accepted."""
    if world.announced and world.seen:
        leave = (partial(write, files_left=True), step_done(2))
        yield Outcome(world, memory, leave)
        return
    yield Outcome(
        world,
        memory,
        (
            partial(ask, identity=OLD, refused=STEP_REFUSED, denied=STEP_REFUSED),
            announce_first,
            partial(tell_gateway, before=world.announced),
            step_done(2),
        ),
    )


def move_files(world, memory):
    """Step 4, even if the old certificate is no longer accepted."""
    if world.seen:
        yield Outcome(world, memory, (partial(write, files_left=True), step_done(4)))
        return
    look = partial(ask, identity=OLD, refused=STEP_REFUSED, denied=STEP_REFUSED)
    store = partial(ask, identity=OLD, done={"files": NEW}, refused=STEP_REFUSED, denied=STEP_REFUSED)
    yield Outcome(world, memory, (look, store, step_done(4)) if world.files == OLD else (look, step_done(4)))


def switch_names(world, memory):
    if not world.has(NEW) or not world.certificate:
        yield Outcome(world, memory, (is_refused,), "the new identity is not whole")
        return
    yield Outcome(world._replace(named=NEW, stale=world.stale or world.named != NEW), memory)


def settle(world, memory):
    if world.config == OLD and world.old_key:
        yield Outcome(world._replace(config=NEW), memory._replace(settled=True))
    else:
        yield Outcome(world, memory)


def settle_back(world, memory):
    if world.config == NEW and world.new_key:
        world = world._replace(config=OLD)
    yield Outcome(world, memory)


def tell_again(world, memory):
    """Have the journal say first that nobody was told."""
    yield Outcome(world._replace(step=min(world.step, 6)), memory)


def follow(world, memory):
    yield from ask(world, memory, NEW, {"files": NEW} if world.files == OLD else {}, (ends,), (ends,))


def tell_users(world, memory):
    yield Outcome(world._replace(completed=world.completed | {world.rotation}), memory)


def retire_old(world, memory):
    yield Outcome(world._replace(old_key=False), memory)


def close_journal(world, memory):
    yield Outcome(without_rotation(world, kept=0), ended(world, memory))


def mark(world, memory):
    reason = Mark.BY_HAND if memory.wish is Wish.ABORT else Mark.WITHDRAWN
    memory = memory._replace(way=Way.UNKNOWN)
    if _wanted(world, memory):
        reason = Mark.SUPERSEDED
        memory = memory._replace(superseding=memory.failed)
        memory = memory._replace(call=Call.GOES_ON, failed=False)
    yield Outcome(world._replace(mark=reason), memory)


def ask_for_way_back(world, memory):
    if world.named == OLD and not world.new_key:
        yield Outcome(world, memory._replace(way=Way.BACK))
        return
    closed = (partial(remember, way=Way.CLOSED),)
    refused = closed if memory.superseding else (is_refused,)
    for outcome in ask(world, memory, OLD, {}, refused, closed):
        yield outcome if outcome.instead else outcome._replace(memory=memory._replace(way=Way.OPEN))


def forward_or_whole(world, memory):
    """Switch again what was switched; else have config.encrypted be for the identity in use."""
    stop = (stop_fioconfig,) if world.named == OLD else ()
    if world.step >= 5:
        yield Outcome(world, memory, (*stop, switch_names, settle, unmark))
    elif world.named == OLD:
        yield Outcome(world, memory, (*stop, settle_back, unmark))
    else:
        yield Outcome(world, memory)


def unmark(world, memory):
    yield Outcome(world._replace(mark=Mark.REFUSED if memory.superseding else Mark.NONE), memory, (ends,))


def note_going_back(world, memory):
    """Journal it: where a cut came inside of the switch, that this one is done."""
    step = 5 if world.named == NEW else world.step
    yield Outcome(world._replace(files_left=True, step=max(step, world.step)), memory)


def go_back_names(world, memory):
    yield Outcome(world._replace(named=OLD, stale=world.stale or world.named != OLD), memory)


def files_back(world, memory):
    if world.files == NEW:
        yield from ask(world, memory, OLD, {"files": OLD})
    else:
        yield from ask(world, memory, OLD)


def end_dropped(world, memory):
    going_back = world.mark is Mark.TAKEN_BACK
    locked_out = world.expects_new and not world.known
    dropped = without_rotation(world, kept=0)._replace(events_wait=True, locked_out=locked_out)
    memory = ended(world, memory)._replace(delivered=False)
    yield Outcome(dropped, memory, (is_refused,) if going_back else OK)


def hand_over(world, memory):
    """Have what the rotation's keys read encrypted to the key in use."""
    if world.step < 2 and not world.kept:
        yield Outcome(world, memory)
        return
    yield Outcome(world._replace(config=OTHER, files=OTHER), memory)
    yield Outcome(faulty(world), memory, (ends,), "the gateway cannot answer now")


def end_given_up(world, memory):
    given_up = without_rotation(world, kept=0)._replace(events_wait=True, stale=False)
    memory = ended(world, memory)._replace(delivered=False)
    yield Outcome(given_up, memory, OK if memory.wish is Wish.ABORT else (is_refused,))


def deliver(world, memory):
    memory = memory._replace(delivered=True)
    for outcome in ask(world, memory, world.named, {"events_wait": False, "success_waits": False}, (), ()):
        after = outcome.world
        if world.success_waits and not after.success_waits and world.named == OLD and world.rotation:
            after = after._replace(false_success=True)
        yield outcome._replace(world=after, memory=memory, instead=() if outcome.instead else OK)


def mend(world, memory):
    memory = memory._replace(mended=True)
    config = OLD if world.config == NEW and world.new_key else world.config
    world = world._replace(config=config)
    if memory.wish is Wish.OFFLINE:
        yield Outcome(world, memory)
        return
    files = OLD if world.files == NEW and world.new_key else world.files
    yield from ask(world, memory, OLD, {"files": files, "lost": False})


def make_whole(world, memory):
    effect = settle if world.rotation and world.named == NEW else settle_back
    yield Outcome(world, memory, (effect, partial(remember, call=Call.ENDS)))


ACTIONS = {
    Action.TAKE_OVER: (take_over, partial(remember, taken_over=True), partial(write, foreign=0)),
    Action.NOTE: (note,),
    Action.WAIT: (ends,),
    Action.MAKE_WHOLE: (make_whole,),
    Action.MEND: (mend,),
    Action.GIVE_UP: (hand_over, partial(write, new_key=False), start_fioconfig, end_given_up),
    Action.REFUSE: (is_refused,),
    Action.DROP: (partial(write, new_key=False), start_fioconfig, end_dropped),
    Action.MARK: (check_superseding, mark),
    Action.ASK: (ask_for_way_back,),
    Action.UNMARK: (forward_or_whole, unmark),
    Action.GO_BACK: (
        stop_fioconfig,
        note_going_back,
        go_back_names,
        settle_back,
        files_back,
        partial(remember, way=Way.BACK, settled=False),
    ),
    Action.RETRY: (partial(write, mark=Mark.NONE),),
    Action.SWITCH_AGAIN: (stop_fioconfig, tell_again, switch_names, settle),
    Action.ENROL: (
        partial(write, new_key=True),
        enrol_at_server,
        partial(write, certificate=True),
        enrol_at_server,
        step_done(1),
    ),
    Action.ANNOUNCE: (announce,),
    Action.PREPARE: (stop_fioconfig, step_done(3)),
    Action.MOVE: (move_files,),
    Action.SWITCH: (switch_names, settle, step_done(5)),
    Action.PROVE: (report, prove),
    Action.ASK_OLD: (ask_old,),
    Action.RECORD_PROOF: (record_proof,),
    Action.TAKE_BACK: (take_back,),
    Action.AGAIN: (ends,),
    Action.KEEP: (start_fioconfig, end_kept),
    Action.FORGET: (partial(write, new_key=False), partial(write, kept=0)),
    Action.WATCH: (settle_back, watch),
    Action.RESTORE: (restore,),
    Action.FOLLOW: (follow, partial(write, files_left=False)),
    Action.HOOKS: (partial(write, stale=False), partial(remember, hooked=True)),
    Action.TELL: (tell_users, partial(write, step=7), partial(remember, told=True, hooked=False)),
    Action.TIDY: (stop_fioconfig, settle, retire_old, start_fioconfig, close_journal),
    Action.BEGIN: (mend_before, check_and_begin, open_journal),
    Action.DELIVER: (deliver,),
    Action.REPORT: (partial(write, events_wait=True, reported_refusal=True),),
}
"""The effects of each action, in order."""
