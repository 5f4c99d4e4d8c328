"""Runs a program and writes down what it took: `launch.py RESULT PROGRAM [ARGUMENT...]`.

A process of its own, and a small one: until its exec a child has the memory of its parent, and the kernel counts that
in the child's peak.
"""

import os
import sys
import time


def main(result: str, *command: str) -> int:
    """Run the program, write its wall and CPU time (seconds) and its peak memory (kB), give its exit status."""
    started = time.monotonic()
    pid = os.posix_spawnp(command[0], command, os.environ)
    _, status, usage = os.wait4(pid, 0)
    wall = time.monotonic() - started
    with open(result, "w") as file:  # noqa: PTH123 - pathlib would be a third of this process
        file.write(f"{wall} {usage.ru_utime + usage.ru_stime} {usage.ru_maxrss}\n")
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
