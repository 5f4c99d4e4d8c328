"""What there is after a rotation (on the device, in its token, in the process), and what of it grew.

What is counted must be the same in every sample: a rotation replaces what the one before it left. What is measured is
compared by medians, of the first and of the last fifth of the samples: one noisy figure is no growth, a trend is.
No limit depends on the number of rotations.
"""

import contextlib
import ctypes
import gc
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from handler.journal import history
from hsm import module
from tests.softhsm import restart_modules

RESIDENT, IN_USE, BLOCKS = "resident memory", "memory in use", "Python objects"
LIMITS = {
    # For what malloc does not know of. The pages that its arenas (8 for each processor) and Python's keep for
    # themselves go on growing for some hundred rotations, by 1 MB with the threads of tpm2-pkcs11.
    RESIDENT: 2 * 1024 * 1024,
    # Exact, but for what threads have in their caches: some 30 KB. In 500 rotations, 250 bytes each are found.
    IN_USE: 128 * 1024,
    # Caches of the interpreter move by some 50. In 500 rotations, one object in every second one is found.
    BLOCKS: 250,
}
SESSIONS = 1.25
"""A module that loses memory at each start loses somewhat more where a session is open (tpm2-pkcs11: by a fifth; with
the same calls, SoftHSM loses nothing)."""
FILE_BYTES = 64
"""Of a file: ECDSA signatures in DER and serial numbers have no fixed length, and are two to a file."""


@dataclass(frozen=True)
class Sample:
    """What there was; sizes in bytes."""

    rotations: int
    objects: Counter[str]
    """In the token, by class."""
    files: Counter[str]
    """Below the device's folder and the token's, by name without the numbers that are new each time."""
    sizes: Counter[str]
    descriptors: Counter[str]
    """Open in the process, by target."""
    threads: Counter[str]
    memory: dict[str, float]
    """RESIDENT, IN_USE, BLOCKS."""
    kept: int = 0
    """What the PKCS#11 module held of keys and objects that are gone, and gave back when it was restarted."""
    starts: int = 0
    """How often the module was restarted so far."""

    def __str__(self) -> str:
        counts = (
            f"{each.total()} {what}" + (f" ({_listed(each)})" if what == "token objects" else "")
            for what, each in self.counted().items()
        )
        history_bytes = self.sizes[history.NAME]
        files = f"{self.sizes.total() - history_bytes} bytes, and {history_bytes} of {history.NAME}"
        memory = f"{self.memory[RESIDENT] / 2**20:.1f} MB, {self.memory[IN_USE] / 2**10:.0f} KB of malloc's in use"
        return f"after {self.rotations}: {', '.join(counts)}; {files}; {memory}, {self.memory[BLOCKS]} {BLOCKS}"

    def counted(self) -> dict[str, Counter[str]]:
        """Give what must be the same in every sample."""
        return {
            "token objects": self.objects,
            "files": self.files,
            "open descriptors": self.descriptors,
            "threads": self.threads,
        }


class _MallocInfo(ctypes.Structure):
    """glibc's struct mallinfo2: sums over all arenas."""

    _names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in _names.split()]


_libc = ctypes.CDLL(None)
_libc.mallinfo2.restype = _MallocInfo


def settle() -> None:
    """Have CPython's table of interned strings at its final size.

    Names of files that come and go (pathlib interns them) fill it until it is rebuilt for what is alive, 530 KB
    larger, once, some time in the first hundred rotations.
    """
    for number in range(200_000):
        sys.intern(f"gone at once {number}")


def take(factory, rotations: int) -> Sample:
    """Take a sample, with nothing under way: servers and module are stopped and started again."""
    for server in (factory.est_server, factory.gateway_server):
        server.stop()  # waits for its threads, closes its connections; an open socket is then the program's
        server.start()
    device = factory.device
    objects = Counter(each.object_class for each in device.token_objects())
    gc.collect()
    with_module = _in_use()
    restart_modules()
    gc.collect()
    found = _files(device.folder) + (_files(device.token.directory) if device.token else [])
    return Sample(
        rotations=rotations,
        objects=objects,
        files=Counter(name for name, _ in found),
        sizes=sum((Counter({name: size}) for name, size in found), Counter()),
        descriptors=_descriptors(),
        threads=Counter(path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")),
        memory={RESIDENT: _resident(), IN_USE: _in_use(), BLOCKS: sys.getallocatedblocks()},
        kept=max(0, with_module - _in_use()),
        starts=_starts(),
    )


def _starts() -> int:
    return max((each.generation for each in module._loaded.values()), default=0)


def lost_by_starts(number: int) -> dict[str, float]:
    """Start the module alone so often; give by how much memory grew, of which nothing is the program's.

    tpm2-pkcs11 with tpm2-abrmd loses 2 KB at each start, and it has to be restarted in a rotation.
    """
    before = {RESIDENT: _resident(), IN_USE: _in_use()}
    for _ in range(number):
        restart_modules()
    return {RESIDENT: max(0, _resident() - before[RESIDENT]), IN_USE: max(0, _in_use() - before[IN_USE])}


def _files(folder: Path) -> list[tuple[str, int]]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return [(re.sub(r"[0-9a-f-]{8,}", "*", path.name), path.stat().st_size) for path in files]


def _descriptors() -> Counter[str]:
    found: Counter[str] = Counter()
    for each in list(Path("/proc/self/fd").iterdir()):
        with contextlib.suppress(FileNotFoundError):  # the one that listed them
            found[re.sub(r":\[\d+\]", "", str(each.readlink()))] += 1
    return found


def _resident() -> int:
    _libc.malloc_trim(0)  # gives free pages back, so that what is left is in use, or beside what is
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def _in_use() -> int:
    info = _libc.mallinfo2()
    return info.uordblks + info.hblkhd


def grown(samples: Sequence[Sample], lost: Mapping[str, float]) -> Iterator[str]:
    """Tell what grew from the first sample on, besides the memory that the module loses by itself."""
    first, last = samples[0], samples[-1]
    for what in first.counted():
        each = [sample.counted()[what] for sample in samples]
        for name in sorted(set().union(*each)):
            counts = [count[name] for count in each]
            if max(counts) > counts[0]:
                yield f"{what}: {name}: {counts[0]} at first, {counts[-1]} at last, {max(counts)} at most"
    for name in sorted(first.sizes.keys() | last.sizes.keys()):
        sizes = [sample.sizes[name] for sample in samples]
        if name == history.NAME:
            if max(sizes) > history.MAX_BYTES:
                yield f"{name} had {max(sizes)} bytes: {history.MAX_BYTES} at most"
        elif trend(sizes) > FILE_BYTES:
            yield f"{name} grew by {trend(sizes):.0f} bytes"
    for what, limit in LIMITS.items():
        more = trend([sample.memory[what] for sample in samples]) - SESSIONS * lost.get(what, 0)
        if more > limit:
            yield f"{what} grew by {more:.0f}, {limit} at most"


def trend(figures: Sequence[float]) -> float:
    """Give by how much the median of the last fifth is above that of the first."""
    fifth = max(1, len(figures) // 5)
    return median(figures[-fifth:]) - median(figures[:fifth])


def story(samples: Sequence[Sample], lost: Mapping[str, float]) -> str:
    """Tell, in one line, what there was at first and at last."""
    first, last = samples[0], samples[-1]
    pairs = zip(first.counted().items(), last.counted().values(), strict=True)
    parts = [f"{what} {before.total()} -> {after.total()}" for (what, before), after in pairs]
    if last.objects:
        parts[0] += f" ({_listed(last.objects)})"
    size = [each.sizes.total() - each.sizes[history.NAME] for each in (first, last)]
    parts[1] += f" ({size[0]} -> {size[1]} bytes; {history.NAME} {last.sizes[history.NAME]} of {history.MAX_BYTES})"
    resident = [f"{each.memory[RESIDENT] / 2**20:.1f}" for each in (first, last)]
    parts.append(f"{RESIDENT} {resident[0]} -> {resident[1]} MB")
    trends = {what: trend([each.memory[what] for each in samples]) for what in (IN_USE, BLOCKS)}
    parts.append(f"trend of {IN_USE} {trends[IN_USE] / 2**10:+.0f} KB, of {BLOCKS} {trends[BLOCKS]:+.0f}")
    kept = sum(each.kept for each in samples[1:])
    if last.objects:
        parts.append(f"the module kept {kept / 2**20:.1f} MB until it was restarted")
        starts = trend([each.starts for each in samples])
        parts.append(f"{starts:.0f} starts of it alone lost {lost[IN_USE] / 2**10:.0f} KB")
    return ", ".join(parts)


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
