"""SIGTERM and Ctrl+C end a call in order: they raise KeyboardInterrupt."""

import functools
import signal
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Protocol

AGAIN = 0.01
"""Seconds after which a swallowed KeyboardInterrupt is raised again."""


class _Unraisable(Protocol):
    exc_type: type[BaseException]
    exc_value: BaseException | None
    exc_traceback: TracebackType | None
    err_msg: str | None
    object: object


def end_in_order() -> None:
    """Make SIGTERM raise KeyboardInterrupt, like SIGINT, and raise it again if a C callback swallowed it."""
    for number in (signal.SIGTERM, signal.SIGALRM):
        signal.signal(number, signal.default_int_handler)
    sys.unraisablehook = functools.partial(_raise_again, sys.unraisablehook)


def _raise_again(before: Callable[[_Unraisable], object], unraisable: _Unraisable) -> None:
    if isinstance(unraisable.exc_value, KeyboardInterrupt):
        signal.setitimer(signal.ITIMER_REAL, AGAIN)  # raising it here would swallow it again
    else:
        before(unraisable)
