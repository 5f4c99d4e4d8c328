"""`renew-client-cert check`: try everything that a rotation needs, without changing anything.

The checks are independent of each other. Each server gets one request with the certificate in use: `GET /config-device`
(device gateway) and `GET /cacerts` (EST server). Two things are not tried, by design:

- the PIN, if the token or this program knows that it was refused; otherwise it is tried once, and a refusal is
  recorded, so that no later call tries it again;
- the gateway, if a rotation has switched to a certificate that it may not have seen yet: showing it is the point of no
  return.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from handler.commands.checks.device import DeviceChecks
from handler.commands.checks.result import OK, PROBLEM, SKIPPED, WARNING, Found
from handler.commands.checks.servers import ServerChecks
from handler.commands.checks.system import SystemChecks
from handler.commands.formats.envelope import as_json
from handler.console.output import print_line
from handler.console.settings import Settings
from handler.console.table import hanging
from handler.console.terminal import Console
from handler.device.configuration.configuration import TOKEN, Configuration
from handler.device.request import Overrides
from handler.errors import FORESEEABLE, describe
from handler.exit_status import ALL_OK, PROBLEMS, WARNINGS
from handler.inspection.effective_request import EffectiveRequest
from handler.journal.snapshot import Snapshot

_LEVEL_WIDTH, _TOPIC_WIDTH = 9, 15


@dataclass(frozen=True)
class Result:
    """What was found, and what it is about."""

    level: str
    topic: str
    text: str


def results(
    settings: Settings, configured: Configuration, options: Overrides, system: SystemChecks
) -> Iterator[Result]:
    """Yield each result as soon as it is known. Raises nothing foreseeable."""
    if blocked := _only_root(configured, system):
        yield Result(PROBLEM, "user", f"user {system.user_id()}, not root: {blocked}")
        return
    view, token = Snapshot.of(configured.storage), configured.source == TOKEN
    asked = EffectiveRequest.of(settings.request_file, options, view, named=settings.request_named, token=token)
    device = DeviceChecks(configured, asked, view)
    servers = ServerChecks(settings, device, asked)
    checks: Sequence[tuple[str, Callable[[], Iterator[Found]]]] = (
        ("user", system.user),
        ("configuration", device.configuration),
        ("configuration", lambda: _environment(settings)),
        ("permissions", device.permissions),
        ("CA file", device.ca_file),
        ("disk", device.disk),
        ("certificate", device.certificate),
        ("clock", device.clock),
        ("token", device.token),
        ("request", device.request),
        ("slots", device.slots),
        ("key", device.key),
        ("rotation", device.rotation),
        ("gateway", servers.gateway),
        ("clock", servers.clock),
        ("EST", servers.est),
        ("handler", system.handler),
        ("hooks", system.hooks),
        ("services", system.services),
        ("units", system.units),
    )
    try:
        for topic, check in checks:
            try:
                yield from (Result(level, topic, text) for level, text in check())
            except FORESEEABLE as error:
                yield Result(PROBLEM, topic, describe(error))
    finally:
        device.close()


def _only_root(configured: Configuration, system: SystemChecks) -> str | None:
    """Say what only root may read or write; then the other checks make no sense."""
    if system.user_id() == 0:
        return None
    for each in configured.unsure():
        if each.problem.endswith("run this as root"):
            return each.problem
    storage = configured.storage
    if storage is None or os.access(storage, os.R_OK | os.W_OK, effective_ids=True):
        return None
    if os.access(storage.parent, os.X_OK, effective_ids=True) and not storage.is_dir():
        return None
    return f"{storage} cannot be written: run this as root"


def _environment(settings: Settings) -> Iterator[Found]:
    """Check HSM_WAIT. Raises RequestRefusedError."""
    if seconds := settings.token_wait:
        yield OK, f"HSM_WAIT = {seconds:g} (environment)"


def exit_status(levels: set[str]) -> int:
    """Return the exit status for these levels."""
    if PROBLEM in levels:
        return PROBLEMS
    return WARNINGS if WARNING in levels else ALL_OK


def summary(found: Sequence[Result]) -> str:
    """Summarize the results in one line."""
    count = {level: sum(each.level == level for each in found) for level in (PROBLEM, WARNING, SKIPPED)}
    parts = [f"{number} {level}{'s' * (number > 1 and level != SKIPPED)}" for level, number in count.items() if number]
    counted = ", ".join(parts)
    if count[PROBLEM]:
        return f"{counted}: a rotation would fail"
    return f"{counted or 'all ok'}: a rotation can go ahead" + (
        ", as far as this was checked" if count[SKIPPED] else ""
    )


def lines_of(result: Result, console: Console) -> Iterator[str]:
    """Yield the lines of one result, folded to the width of the console."""
    level = f"{result.level:{_LEVEL_WIDTH}}"
    first, *rest = hanging(f"{level}{result.topic:{_TOPIC_WIDTH}}", result.text, console.width)
    yield console.coloured(result.level, level) + first[_LEVEL_WIDTH:]
    yield from rest


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Show each result as soon as it is known. Raises OutputError."""
    overrides = Overrides(options.est_server, None, options.pkey_ids, options.cert_ids)
    configured = Configuration(settings.search_paths, settings.storage, settings.config_url)
    console = Console.of(sys.stdout)
    found = []
    for result in results(settings, configured, overrides, SystemChecks()):
        found.append(result)
        if options.json or (options.quiet and result.level == OK):
            continue
        for line in lines_of(result, console):
            print_line(line)
    status = exit_status({each.level for each in found})
    if options.json:
        print_line(as_json("check", {"exit_status": status, "summary": summary(found), "results": found}))
    elif not options.quiet:
        print_line(summary(found))
    return status
