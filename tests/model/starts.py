"""The worlds that the model begins with."""

from .world import IN_FRONT, NEW, REFUSES, REPLICAS, World

STARTS = (
    World(),
    World(gateway=REFUSES),
    *(World(foreign=step, new_key=True, certificate=True) for step in (1, 4)),
    World(foreign=5, new_key=True, certificate=True, named=NEW, config=NEW, files=NEW, fioconfig=NEW),
)
"""One rotation is asked for; with a gateway that refuses it, or one that fioconfig's own code left."""
EXPECTED = {"a server in front": World(gateway=IN_FRONT), "replicas that learn late": World(gateway=REPLICAS)}
"""What today's rules lose a device to: anything but a refused certificate is proof, and what is rolled back is lost."""
