"""What the whole process needs: no image of its memory, and SIGTERM and Ctrl+C that end a call in order."""

import ctypes
import functools
import os
import resource
import signal
import sys
from collections.abc import Callable

_PR_SET_DUMPABLE = 4  # prctl(2)
AGAIN = 0.01
"""Seconds after which a swallowed KeyboardInterrupt is raised again."""


def keep_memory_private() -> None:
    """Disable core dumps, which would hold the PIN (setrlimit(2), and prctl(2) PR_SET_DUMPABLE). Raises OSError.

    The limit alone is not enough: the kernel ignores it if core(5) pipes dumps to a program.
    """
    nothing = (0, 0)
    if resource.getrlimit(resource.RLIMIT_CORE) != nothing:  # systemd forbids setting it again
        resource.setrlimit(resource.RLIMIT_CORE, nothing)
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), "prctl(PR_SET_DUMPABLE)")


def end_in_order() -> None:
    """Make SIGTERM raise KeyboardInterrupt, like SIGINT, and raise it again if a C callback swallowed it."""
    for number in (signal.SIGTERM, signal.SIGALRM):
        signal.signal(number, signal.default_int_handler)
    sys.unraisablehook = functools.partial(_raise_again, sys.unraisablehook)


def _raise_again(before: Callable[["sys.UnraisableHookArgs"], object], unraisable: "sys.UnraisableHookArgs") -> None:
    if isinstance(unraisable.exc_value, KeyboardInterrupt):
        signal.setitimer(signal.ITIMER_REAL, AGAIN)  # raising it here would swallow it again
    else:
        before(unraisable)
