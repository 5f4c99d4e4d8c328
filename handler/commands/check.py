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
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from handler.commands.checks.device import DeviceChecks
from handler.commands.checks.result import OK, PROBLEM, SKIPPED, WARNING, Result, ok, problem
from handler.commands.checks.servers import ServerChecks
from handler.commands.checks.system import System, system_findings
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


@dataclass
class Check:
    """All checks of one device."""

    settings: Settings
    configured: Configuration
    options: Overrides
    system: System

    def findings(self) -> Iterator[Result]:
        """Yield each result as soon as it is known. Raises nothing foreseeable."""
        configured = self.configured
        if blocked := self._only_root():
            yield problem("user", f"user {self.system.user()}, not root: {blocked}")
            return
        view = Snapshot.of(configured.storage)
        asked = EffectiveRequest.of(
            self.settings.request_file,
            self.options,
            view,
            named=self.settings.request_named,
            token=configured.source == TOKEN,
        )
        device = DeviceChecks(configured, asked, view)
        servers = ServerChecks(self.settings, device, asked)
        try:
            for topic, check in (
                ("user", self.system.user_findings),
                ("configuration", device.configuration),
                ("configuration", self._environment),
                ("permissions", device.permissions),
                ("disk", device.disk),
                ("certificate", device.certificate),
                ("clock", device.clock),
                ("token", device.token),
                ("slots", device.slots),
                ("key", device.key),
                ("rotation", device.rotation),
                ("gateway", servers.gateway),
                ("EST", servers.est),
                ("services", lambda: system_findings(self.system)),
            ):
                yield from _guarded(topic, check)
        finally:
            device.close()

    def _only_root(self) -> str | None:
        """Say what only root may read or write; then the other checks make no sense."""
        if self.system.user() == 0:
            return None
        forbidden = next(
            (each.problem for each in self.configured.unsure() if each.problem.endswith("run this as root")), None
        )
        if forbidden is None and (storage := self.configured.storage) is not None:
            unseen = not os.access(storage.parent, os.X_OK, effective_ids=True)
            writable = not unseen and os.access(storage, os.R_OK | os.W_OK, effective_ids=True)
            writable = writable or not (unseen or storage.is_dir())
            forbidden = None if writable else f"{storage} cannot be written: run this as root"
        return forbidden

    def _environment(self) -> Iterator[Result]:
        """Check HSM_WAIT. Raises RequestRefusedError."""
        if seconds := self.settings.token_wait:
            yield ok("configuration", f"HSM_WAIT = {seconds:g} (environment)")


def _guarded(topic: str, check: Callable[[], Iterator[Result]]) -> Iterator[Result]:
    try:
        yield from check()
    except FORESEEABLE as error:
        yield problem(topic, describe(error))


def exit_status(levels: set[str]) -> int:
    """Return the exit status for these levels."""
    if PROBLEM in levels:
        return PROBLEMS
    return WARNINGS if WARNING in levels else ALL_OK


def summary(findings: list[Result]) -> str:
    """Summarize the results in one line."""
    count = {level: sum(each.level == level for each in findings) for level in (PROBLEM, WARNING, SKIPPED)}
    parts = [f"{number} {level}{'s' * (number > 1 and level != SKIPPED)}" for level, number in count.items() if number]
    found = ", ".join(parts)
    if count[PROBLEM]:
        return f"{found}: a rotation would fail"
    return f"{found or 'all ok'}: a rotation can go ahead" + (", as far as this was checked" if count[SKIPPED] else "")


def lines_of(finding: Result, console: Console) -> Iterator[str]:
    """Yield the lines of one result, folded to the width of the console."""
    level = f"{finding.level:{_LEVEL_WIDTH}}"
    first, *rest = hanging(f"{level}{finding.topic:{_TOPIC_WIDTH}}", finding.text, console.width)
    yield console.coloured(finding.level, level) + first[_LEVEL_WIDTH:]
    yield from rest


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Show each result as soon as it is known. Raises OutputError."""
    overrides = Overrides(options.est_server, None, options.pkey_ids, options.cert_ids)
    configured = Configuration(settings.search_paths, settings.storage, settings.config_url)
    console = Console.of(sys.stdout, os.environ)
    found = []
    for finding in Check(settings, configured, overrides, System()).findings():
        found.append(finding)
        if options.json or (options.quiet and finding.level == OK):
            continue
        for line in lines_of(finding, console):
            print_line(line)
    status = exit_status({each.level for each in found})
    if options.json:
        results = [{"level": each.level, "topic": each.topic, "text": each.text} for each in found]
        print_line(as_json("check", {"exit_status": status, "summary": summary(found), "results": results}))
    elif not options.quiet:
        print_line(summary(found))
    return status
