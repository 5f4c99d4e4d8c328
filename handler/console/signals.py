"""A call that is ended by SIGTERM or Ctrl+C ends in order: as KeyboardInterrupt, wherever the signal comes."""

import functools
import signal
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Protocol

AGAIN = 0.01
"""Seconds after which an interruption that was swallowed comes again."""


class _Unraisable(Protocol):
    exc_type: type[BaseException]
    exc_value: BaseException | None
    exc_traceback: TracebackType | None
    err_msg: str | None
    object: object


def end_in_order() -> None:
    """Have SIGTERM raise KeyboardInterrupt, as SIGINT does, again where C code calling back to Python swallowed it."""
    for number in (signal.SIGTERM, signal.SIGALRM):
        signal.signal(number, signal.default_int_handler)
    sys.unraisablehook = functools.partial(_raise_again, sys.unraisablehook)


def _raise_again(before: Callable[[_Unraisable], object], unraisable: _Unraisable) -> None:
    if isinstance(unraisable.exc_value, KeyboardInterrupt):
        signal.setitimer(signal.ITIMER_REAL, AGAIN)  # at once, it would be raised, and swallowed, in here
    else:
        before(unraisable)
