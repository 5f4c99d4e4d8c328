"""What a rotation asks of the disk: the number of flushes, and the time if each of them is slow."""

import re
from collections import Counter
from dataclasses import dataclass

from .clients import Client
from .rotation import Keys, registered, run

SECONDS = 0.02
"""How long a flush takes on a slow eMMC."""
FLUSHES, RENAMES = ("fsync", "fdatasync"), ("rename", "renameat", "renameat2")
_CALL = re.compile(r"^\d+ +(\w+)\((.*)$", re.MULTILINE)


@dataclass(frozen=True)
class DiskFigures:
    """How often a rotation flushes, and puts a file in another's place, and its time (seconds) on a slow disk."""

    flushes: int
    renames: int
    wall: float


def rotate_on_a_slow_disk(client: Client, keys: Keys) -> DiskFigures:
    """Rotate once; strace counts, and makes each flush last. Raises FailedError.

    Not by a library in between: the stock client makes its system calls without one.
    """
    with registered(keys) as factory:
        log = factory.device.folder / "strace.log"
        calls, slow = ",".join((*FLUSHES, *RENAMES)), f"{','.join(FLUSHES)}:delay_exit={SECONDS * 1e6:.0f}"
        options = ["-f", "--seccomp-bpf", "-qq", "-y", "-o", str(log), "-e", f"trace={calls}", "-e", f"inject={slow}"]
        _, wall, _, _ = run(factory, client, within=("strace", *options))
        # Python's byte code, written on the first day, is none of a rotation's files.
        found = Counter(name for name, rest in _CALL.findall(log.read_text()) if ".pyc" not in rest)
        return DiskFigures(sum(found[each] for each in FLUSHES), sum(found[each] for each in RENAMES), wall)
