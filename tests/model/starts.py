"""The worlds that the model begins with."""

from .world import NEW, REFUSES, REPLICAS, RESETS, World

STARTS = (
    World(foreign=5, new_key=True, certificate=True, named=NEW, config=NEW, files=NEW, fioconfig=NEW, stale=True),
    *(World(foreign=step, new_key=True, certificate=True) for step in (1, 4)),
    World(),
    World(gateway=REFUSES),
    World(gateway=RESETS),
    World(gateway=REPLICAS),
)
"""One rotation is asked for, with every kind of gateway; or fioconfig's own code left one."""
