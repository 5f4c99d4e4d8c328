"""A process that reads the PIN leaves no image of its memory."""

import ctypes
import os
import resource

_PR_SET_DUMPABLE = 4  # prctl(2)


def keep_memory_private() -> None:
    """Have no core dump hold what is read from now on (prctl(2), PR_SET_DUMPABLE).

    The limit alone is not enough: the kernel heeds no limit where core(5) pipes dumps to a program. Raises OSError.
    """
    nothing = (0, 0)
    if resource.getrlimit(resource.RLIMIT_CORE) != nothing:  # in the services systemd has set it, and permits no other
        resource.setrlimit(resource.RLIMIT_CORE, nothing)
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), "prctl(PR_SET_DUMPABLE)")
