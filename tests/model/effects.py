"""The kinds of effects that the actions of the abstract world are made of, and what can come of each.

An effect is a function of world and memory that yields what can come of it. A server's answer can be lost after it did
its work, put off, or be wrong; each of these is a fault, and costs one.
"""

from typing import NamedTuple

from handler.rotation.found import Call, Mark, Way

from .world import NEW, OLD, REPLICAS, TAKES, Memory, World

OK = None
"""Of an outcome: the effects that are left follow."""


class Outcome(NamedTuple):
    """What came of an effect: the world and the memory after it, and what follows in the place of what was left."""

    world: World
    memory: Memory
    instead: tuple | None = OK
    label: str = ""


def ended(world, memory):
    """Give the memory once no rotation is left: what is in use is the old identity of any next."""
    return memory._replace(
        changed=memory.changed or world.named != memory.loaded,
        loaded=OLD,
        way=Way.UNKNOWN,
        hooked=False,
        superseding=False,
    )


# Kinds of effects


def write(world, memory, **changes):
    """Change the world; nothing can come between."""
    yield Outcome(world._replace(**changes), memory)


def remember(world, memory, **changes):
    """Change what the call knows."""
    yield Outcome(world, memory._replace(**changes))


def ends(world, memory):
    """End the call with a failure that may pass."""
    yield Outcome(world, memory._replace(call=Call.ENDS, failed=True), ())


def is_refused(world, memory):
    """Refuse something permanently; the call continues by the rules."""
    yield Outcome(world, memory._replace(call=Call.REFUSED, failed=True), ())


def faulty(world):
    """Give the world with one more fault."""
    return world._replace(faults=world.faults + 1)


def ask(world, memory, identity, done=None, refused=(is_refused,), denied=(is_refused,)):
    """Ask the gateway as that identity. `done` changes the world where it answers yes; else what follows instead.

    A final answer is the gateway's own or that of something in front of it; `denied` is one about the certificate.
    """
    takes = world.takes(identity) or (identity == NEW and would_take(world))
    done = dict(done or {})
    if identity == NEW and takes:
        done["seen"] = True
    after = world._replace(**done)
    if takes:
        yield Outcome(after, memory)
        yield Outcome(faulty(after), memory, (ends,), "its answer is lost")
    else:
        yield Outcome(world, memory, denied, "the gateway refuses the certificate")
    yield Outcome(faulty(world), memory, (ends,), "the gateway cannot answer now")
    yield Outcome(
        faulty(world)._replace(asked_to_wait=world.rotation != 0),
        memory,
        (ends,),
        "the gateway asks to come back later",
    )
    yield Outcome(faulty(world), memory, denied, "something answers 403")
    yield Outcome(faulty(world), memory, refused, "the request is answered 400")
    if world.gateway == REPLICAS and identity == OLD and world.seen:
        yield Outcome(world._replace(**{**done, "seen": world.seen}), memory, OK, "a replica still takes the old one")


def would_take(world):
    return world.gateway in {TAKES, REPLICAS}


def enrol_at_server(world, memory):
    """Have a certificate issued."""
    yield Outcome(world, memory)
    yield Outcome(faulty(world), memory, (ends,), "the EST server cannot answer now")
    yield Outcome(faulty(world)._replace(asked_to_wait=True), memory, (ends,), "the EST server asks to come back later")
    yield Outcome(faulty(world), memory, (record_refused, is_refused), "the EST server refuses")


def record_refused(world, memory):
    """Journal that a step was refused for good, unless the new identity is in use."""
    if world.named == NEW:
        yield Outcome(world._replace(events_wait=True), memory)
    else:
        yield Outcome(world._replace(mark=Mark.REFUSED, events_wait=True), memory)


STEP_REFUSED = (record_refused, is_refused)


def step_done(number):
    """Journal a step and its event."""

    def effect(world, memory):
        step = max(world.step, number)
        moved = {"asked_to_wait": False} if step != world.step else {}
        yield Outcome(world._replace(step=step, events_wait=True, **moved), memory)

    return effect


def stop_fioconfig(world, memory):
    """Stop fioconfig, unless this is its own call; it may have stored what it was about to."""
    if memory.by_fioconfig or world.stopped:
        yield Outcome(world, memory)
        return
    yield Outcome(world._replace(stopped=True), memory)
    if world.fioconfig not in {world.config, NEW}:
        yield Outcome(
            world._replace(stopped=True, config=world.fioconfig), memory, OK, "fioconfig stored its own first"
        )


def start_fioconfig(world, memory):
    """Start it again where we stopped it: it loads what is in use."""
    if world.stopped:
        world = world._replace(stopped=False, fioconfig=world.named)
    yield Outcome(world, memory)
