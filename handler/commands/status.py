"""`status`: what is in use and what is pending (docs/status.md)."""

import argparse
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from handler.console.output import print_line
from handler.console.settings import Settings
from handler.console.table import hanging
from handler.console.terminal import Console
from handler.crypto import names
from handler.device.configuration.configuration import TOKEN, Configuration
from handler.device.storage import atomic_write
from handler.exit_status import ALL_OK, DONE, PENDING, PROBLEMS, REFUSED, WARNINGS
from handler.inspection.identity import Identity
from handler.inspection.judgement import PROBLEM, findings
from handler.inspection.past import LastRotation
from handler.inspection.status import Status, read_status
from handler.inspection.units import DAEMON_UNIT, PATH_UNIT
from handler.journal.rotation_state import ANNOUNCED, PROVED, SWITCHED
from handler.journal.snapshot import Snapshot
from hsm.certificate import Certificate

from .formats.metrics import metrics
from .formats.status_json import status_json

_NAME_WIDTH = 15
_SECONDS = "%Y-%m-%d %H:%M:%S UTC"
_STEPS = {
    SWITCHED: "switched, but the device gateway has not accepted the new certificate yet",
    PROVED: "accepted by the device gateway, services not restarted yet",
}
_SLOTS = {"key": "key slots", "certificate": "cert slots"}


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Show the status. Raises OutputError, OSError."""
    configured = Configuration(settings.search_paths, settings.storage, settings.config_url)
    status = read_status(configured, settings.request_file, named=settings.request_named)
    if options.json or options.prometheus:
        _give(status_json(status) + "\n" if options.json else metrics(status), options.output)
    else:
        for line in lines(status, Console.of(sys.stdout).width):
            print_line(line)
    if options.exit_status:
        levels = {each.level for each in findings(status)}
        return PROBLEMS if PROBLEM in levels else WARNINGS if levels else ALL_OK
    if options.output or status.identity.problem is None:
        return DONE
    return PENDING if status.identity.passing else REFUSED


def _give(text: str, output: str | None) -> None:
    """Write the text to standard output, or to a file, atomically and readable by everybody."""
    if output is None:
        print_line(text.removesuffix("\n"))
    else:
        atomic_write(Path(output), text.encode(), mode=0o644)


def lines(status: Status, width: int | None) -> Iterator[str]:
    """Yield the lines for a console of that width."""
    for name, text in _facts(status):
        if text:
            yield from hanging(f"{name:{_NAME_WIDTH}}", text, width)


def _facts(status: Status) -> Iterator[tuple[str, str | None]]:
    """Yield each row's name and text; without a text, there is none."""
    identity = status.identity
    yield "identity", _where(identity)
    if identity.certificate is not None:
        yield from _certificate_facts(identity.certificate, status.now)
    yield "problem", identity.problem
    yield from (("odd", text) for text in status.odd)
    # The token's own count; only a login shows whether p11.pass is the PIN.
    yield "PIN", "all attempts left" if identity.pin == "good" else identity.pin
    for kind, name in _SLOTS.items():
        yield name, ", ".join(f"{each.id} {each.use}" for each in status.slots if each.kind == kind)
    unknown = status.past.last is None and status.view.problem  # without the journal's folder, or root's right to it
    yield "last rotation", "unknown" if unknown else _last_words(status.past.last)
    yield "rolled back", str(status.past.roll_back or "")
    yield "pending", "; ".join(_pending_words(status.view))
    waiting = status.view.pending.waiting if status.view.pending else None
    if waiting is not None:
        yield "waits for", waiting.words
    elif status.due and status.view.kept and status.pending is None:
        yield "waits for", "a day to pass: until then, the device gateway may accept the new certificate after all"
    yield "not before", f"{status.not_before:{_SECONDS}}" if status.not_before else None
    yield "next attempt", _next_words(status) if status.due else None
    yield "events", "unknown" if status.undelivered is None else f"{status.undelivered} not delivered yet"
    yield "running", status.running
    for anchor in status.anchors:
        if anchor.warning:
            yield "trust anchor", f"{anchor.subject} {anchor.warning}: put its successor into import.tls_cacert_path"


def _next_words(status: Status) -> str:
    """Say when, and by what."""
    if status.units is None:
        return "none, because systemd does not run: run `renew-client-cert resume`"
    when = "soon"
    if status.next_attempt is not None and status.next_attempt > status.now:
        when = f"{status.next_attempt:{_SECONDS}}"
    if status.units[DAEMON_UNIT].active:
        return f"{when}, by the daemon (running)"
    if status.units[PATH_UNIT].active:
        return f"{when}, by the daemon, started by {PATH_UNIT}"
    return f"none, because {PATH_UNIT} does not run: `systemctl enable --now {PATH_UNIT}`"


def _where(identity: Identity) -> str:
    if identity.names is None:
        return "unknown"
    place = "files"
    if identity.source == TOKEN:
        place = f"token {identity.token.label}, module {identity.token.module}" if identity.token else "a token"
    return f"key {identity.names.key}, certificate {identity.names.certificate} ({place})"


def _certificate_facts(certificate: Certificate, now: datetime) -> Iterator[tuple[str, str]]:
    yield "subject", names.shown(certificate.subject)
    yield "serial", certificate.serial
    yield "issuer", names.shown(certificate.issuer)
    begin, end = certificate.shown_begin.removesuffix(" UTC"), certificate.shown_end
    yield "valid", f"{begin} to {end}, {_left(certificate, now)}"


def _left(certificate: Certificate, now: datetime) -> str:
    if certificate.begins_after(now):
        return f"not valid yet: the clock shows {now:%Y-%m-%d %H:%M} UTC"
    if certificate.end is None:
        return "days left unknown"
    days = (certificate.end - now).days
    return f"{days} days left" if days >= 0 else f"ENDED {-days} days ago"


def _last_words(last: LastRotation | None) -> str:
    if last is None:
        return "none recorded"
    time = f", {last.time:{_SECONDS}}" if last.time else ""
    if last.success:
        return f"{last.rotation_id}: complete{time}"
    return f"{last.rotation_id}: failed{time}: {last.details or 'no reason recorded'}"


def _pending_words(view: Snapshot) -> Iterator[str]:
    pending = view.pending
    if view.left_by_fioconfig:
        yield "a rotation that fioconfig left: the next call takes it over"
    if view.problem is not None:
        yield f"unknown: {view.problem}"
    elif pending is None or pending.rotation_id is None or pending.step == ANNOUNCED:
        if not view.left_by_fioconfig:
            yield "no rotation"
        if pending is not None and pending.rotation_id is not None:
            yield f"rotation {pending.rotation_id} is in use; the next call cleans up after it"
    else:
        if view.rotation is None:
            how = "requested, not started"
        elif view.rotation.rollback is not None:
            how = f"rolling back to the old identity ({view.rotation.rollback})"
        else:
            how = _STEPS.get(pending.step, f"{pending.step} of {SWITCHED} steps done")
        yield f"rotation {pending.rotation_id}: {how}"
        if pending.refused:
            yield f"refused: {pending.refused}"
            yield "correct that, then `renew-client-cert resume`, or `renew-client-cert abort`"
    if view.rotation is not None and view.requested is not None:
        yield f"rotation {view.requested.rotation_id} is requested, and comes next"
