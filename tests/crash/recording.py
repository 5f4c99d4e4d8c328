"""What a process did to files, from strace; and the way to kill it at one of those calls.

Calls are counted per thread and system call, as `strace --inject=...:when=N` counts them. Only calls of the main thread
can be killed at: a count alone cannot tell two threads apart. What a kill at another thread's call leaves is made by
replaying the recording up to it (powerloss.Disk).
"""

import re
from dataclasses import dataclass
from pathlib import Path

CHANGING = (
    "openat", "write", "pwrite64", "ftruncate", "rename", "renameat", "renameat2", "unlink", "unlinkat", "mkdir",
    "mkdirat", "rmdir", "chmod", "fchmod", "fchmodat", "fchown", "utimensat", "fsync", "fdatasync", "flock",
)  # fmt: skip
_LINE = re.compile(r"^(\d+\.\d+) (\w+)\((.*?)(?:\) += (-?\d+|\?).*)?$")
_TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"(?:\.\.\.)?')
_DESCRIPTOR = re.compile(r"(\d+|AT_FDCWD)<((?:\\x[0-9a-f]{2})*)>")


@dataclass(frozen=True)
class Call:
    """One system call: `paths` are the files of its descriptors, then those of its arguments."""

    time: float
    main: bool
    name: str
    ordinal: int
    """The how many-th call of that name in its thread, from 1."""
    paths: tuple[str, ...]
    data: bytes
    arguments: str
    done: bool

    @property
    def visible(self):
        """Whether a process that looks at files afterwards sees a difference; making durable makes none."""
        return self.name not in ("fsync", "fdatasync", "flock")

    def same_as(self, other):
        """Whether a count identifies it with that call of another run."""
        return (self.name, self.ordinal) == (other.name, other.ordinal)

    @property
    def is_of_token_itself(self):
        """Whether it is about the file without which SoftHSM's token is gone."""
        return any(Path(path).name == "token.object" for path in self.paths)

    def changes(self, folders, existing):
        """Tell whether it changes (or makes durable) anything below the folders; files in `existing` are not made."""
        if self.name == "openat":
            makes = "O_CREAT" in self.arguments and self.paths[-1] not in existing
            if not makes and "O_TRUNC" not in self.arguments:
                return False
        return any(path == str(each) or path.startswith(f"{each}/") for path in self.paths for each in folders)

    def __str__(self):
        # Random parts of names would make two runs look different.
        where = re.sub(r"[0-9a-f]{10,}", "*", Path(self.paths[-1]).name) if self.paths else ""
        return f"{self.name} {where} (#{self.ordinal})"


def strace(output, inject=None, fault="signal=KILL"):
    """Give the command that runs what follows it under strace, recording below `output` (a prefix).

    At the call `inject` it meets the fault: a signal, or an error such as `error=ENOSPC`.
    """
    command = ["strace", "-ff", "-f", "-ttt", "-y", "-xx", "-s", "1000000", "-qq", "-o", str(output)]
    command += ["-e", "trace=" + ",".join(CHANGING), "-e", "signal=none", "-b", "execve"]  # no programs that it calls
    if inject is not None:
        command += ["-e", f"inject={inject.name}:{fault}:when={inject.ordinal}"]
    if inject is None or not fault.startswith("signal"):
        command.append("--seccomp-bpf")  # faster, but strace 6.1 injects no signals with it
    return command


def read(output):
    """Read a recording: the calls of all threads, in the order of time."""
    files = sorted(output.parent.glob(f"{output.name}.*"), key=lambda path: int(path.suffix[1:]))
    calls = []
    for path in files:
        counts = {}
        for line in path.read_text("ascii", "replace").splitlines():
            match = _LINE.match(line)
            if match is None:
                continue
            time, name, arguments, result = match.groups()
            counts[name] = counts.get(name, 0) + 1
            texts = [_bytes(each) for each in _TEXT.findall(arguments)]
            descriptors = [_bytes(each) for number, each in _DESCRIPTOR.findall(arguments) if number != "AT_FDCWD"]
            written = name in ("write", "pwrite64")
            names = descriptors if written else [*descriptors, *texts]
            calls.append(
                Call(
                    time=float(time),
                    main=path == files[0],
                    name=name,
                    ordinal=counts[name],
                    paths=tuple(each.decode("utf-8", "replace") for each in names),
                    data=texts[0] if written and texts else b"",
                    arguments=re.sub(_TEXT, "", arguments),
                    done=result is not None and result not in ("-1", "?"),
                )
            )
    return sorted(calls, key=lambda call: call.time)


def remove(output):
    """Remove the files of a recording."""
    for path in output.parent.glob(f"{output.name}.*"):
        path.unlink()


def _bytes(text):
    return bytes.fromhex(text.replace("\\x", ""))
