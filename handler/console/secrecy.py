"""Keep a process that reads the PIN from leaving an image of its memory."""

import ctypes
import os
import resource

_PR_SET_DUMPABLE = 4  # prctl(2)


def keep_memory_private() -> None:
    """Disable core dumps (setrlimit(2), and prctl(2) PR_SET_DUMPABLE). Raises OSError.

    The limit alone is not enough: the kernel ignores it if core(5) pipes dumps to a program.
    """
    nothing = (0, 0)
    if resource.getrlimit(resource.RLIMIT_CORE) != nothing:  # systemd forbids setting it again
        resource.setrlimit(resource.RLIMIT_CORE, nothing)
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), "prctl(PR_SET_DUMPABLE)")
