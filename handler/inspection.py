"""The commands that only look: status, check, slots. None takes the lock; all say what they find in lines of text."""

import argparse
from collections.abc import Callable

from hsm.errors import TokenError

from .arguments import Settings
from .configured import Configured
from .console import Console
from .errors import RenewalError, describe, is_final
from .exit_status import DONE, PENDING, REFUSED
from .table import hanging


def inspect(options: argparse.Namespace, settings: Settings, console: Console, tell: Callable[[str], None]) -> int:
    """Run `status`, `check` or `slots`, tell each line as soon as it is known, and give the exit status.

    What cannot be shown is told too. 75: it may pass by itself; 78: somebody has to mend it first.
    """
    configured = Configured(settings.search_paths, settings.storage, settings.config_url)
    if options.command == "status":
        return _status(options, settings, configured, console, tell)
    if options.command == "check":
        return _check(options, settings, configured, console, tell)
    return _slots(configured, console, tell)


def _slots(configured: Configured, console: Console, tell: Callable[[str], None]) -> int:
    from .slots import list_slots  # noqa: PLC0415

    try:
        for line in list_slots(configured).lines(console.width):
            tell(line)
    except (RenewalError, TokenError, OSError) as error:
        for line in hanging("problem: ", describe(error), console.width):
            tell(line)
        return REFUSED if is_final(error) else PENDING
    return DONE


def _check(
    options: argparse.Namespace,
    settings: Settings,
    configured: Configured,
    console: Console,
    tell: Callable[[str], None],
) -> int:
    from .check import Check, exit_status, lines_of, summary  # noqa: PLC0415
    from .check_system import System  # noqa: PLC0415
    from .finding import OK  # noqa: PLC0415
    from .request import Overrides  # noqa: PLC0415

    overrides = Overrides(options.est_server, None, options.pkey_ids, options.cert_ids)
    found = []
    for finding in Check(settings, configured, overrides, System()).findings():
        found.append(finding)
        if options.quiet and finding.level == OK:
            continue
        for line in lines_of(finding, console):
            tell(line)
    if not options.quiet:
        tell(summary(found))
    return exit_status({each.level for each in found})


def _status(
    options: argparse.Namespace,
    settings: Settings,
    configured: Configured,
    console: Console,
    tell: Callable[[str], None],
) -> int:
    from .status import lines, read_status  # noqa: PLC0415

    status = read_status(settings, configured)
    if options.json:
        from .status_json import as_json  # noqa: PLC0415

        tell(as_json(status))
    else:
        for line in lines(status, console.width):
            tell(line)
    if status.identity.problem is None:
        return DONE
    return PENDING if status.identity.passing else REFUSED
