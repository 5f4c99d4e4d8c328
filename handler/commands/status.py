"""`status`: what is in use, what is pending, what is left to say. docs/status.md."""

import argparse
import os
import sys
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING

from handler.console.output import print_line
from handler.console.settings import Settings
from handler.console.table import hanging
from handler.console.terminal import Console
from handler.device.configuration.configuration import TOKEN, Configuration
from handler.exit_status import DONE, PENDING, REFUSED
from handler.inspection.identity import Identity
from handler.inspection.status import LastRotation, Status, read_status, serial, undelivered
from handler.journal.rotation_state import ANNOUNCED, PROVED, SWITCHED
from handler.journal.snapshot import Snapshot

if TYPE_CHECKING:
    from cryptography import x509

_NAME_WIDTH = 15
_SLOTS = {"key": "key slots", "certificate": "cert slots"}


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Show what the device is and what is pending. Raises OutputError."""
    configured = Configuration(settings.search_paths, settings.storage, settings.config_url)
    status = read_status(configured, settings.request_file, named=settings.request_named)
    if options.json:
        from .status_json import as_json  # noqa: PLC0415

        print_line(as_json(status))
    else:
        for line in lines(status, Console.of(sys.stdout, os.environ).width):
            print_line(line)
    if status.identity.problem is None:
        return DONE
    return PENDING if status.identity.passing else REFUSED


def lines(status: Status, width: int | None) -> Iterator[str]:
    """Give the lines for a console of that width."""
    for name, text in _facts(status):
        yield from hanging(f"{name:{_NAME_WIDTH}}", text, width)


def _facts(status: Status) -> Iterator[tuple[str, str]]:
    identity = status.identity
    yield "identity", _where(identity)
    if identity.certificate is not None:
        yield from _certificate_facts(identity.certificate, status.now)
    if identity.problem:
        yield "problem", identity.problem
    for text in status.odd:
        yield "odd", text
    if identity.pin is not None:
        # The token's own count: whether p11.pass is the PIN shows only where it is tried.
        yield "PIN", "no attempt at it is lost" if identity.pin == "good" else identity.pin
    for kind in ("key", "certificate"):
        slots = [f"{each.id} {each.use}" for each in status.slots if each.kind == kind]
        if slots:
            yield _SLOTS[kind], ", ".join(slots)
    yield "last rotation", _last_words(status.last)
    yield "pending", "; ".join(_pending_words(status.view))
    if status.view.pending is not None and status.view.pending.waiting is not None:
        waiting = status.view.pending.waiting
        yield "waits for", f"{waiting.what}: {waiting.reason}" if waiting.what else waiting.reason
        yield "not before", waiting.until or "the daemon tries it again by itself"
    yield "events", "unknown" if (count := undelivered(status.view)) is None else f"{count} not delivered yet"
    if status.running:
        yield "running", status.running


def _where(identity: Identity) -> str:
    if identity.names is None:
        return "not known"
    place = "files"
    if identity.source == TOKEN:
        place = f"token {identity.token.label}, module {identity.token.module}" if identity.token else "a token"
    return f"key {identity.names.key}, certificate {identity.names.certificate} ({place})"


def _certificate_facts(certificate: "x509.Certificate", now: datetime) -> Iterator[tuple[str, str]]:
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    days = (end - now).days
    yield "subject", certificate.subject.rfc4514_string()
    yield "serial", serial(certificate)
    yield "issuer", certificate.issuer.rfc4514_string()
    left = f"{days} days left" if days >= 0 else f"ENDED {-days} days ago"
    if now < begin:
        left = f"not valid yet: the clock shows {now:%Y-%m-%d %H:%M} UTC"
    yield "valid", f"{begin:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC, {left}"


def _last_words(last: LastRotation | None) -> str:
    if last is None:
        return "none that is known here"
    time = f", {last.time.replace('T', ' ').removesuffix('Z')} UTC" if last.time else ""
    if last.success:
        return f"{last.rotation_id}: complete{time}"
    return f"{last.rotation_id}: failed{time}: {last.details or 'no reason is known'}"


def _pending_words(view: Snapshot) -> Iterator[str]:
    pending = view.pending
    if view.left_by_fioconfig:
        yield "a rotation that fioconfig left: the next call takes it over"
    if view.problem is not None:
        yield f"unknown: {view.problem}"
    elif pending is None or pending.rotation_id is None:
        if not view.left_by_fioconfig:
            yield "no rotation"
    else:
        if view.rotation is not None and view.rotation.rollback is not None:
            yield f"rotation {pending.rotation_id}: goes back to the old identity ({view.rotation.rollback})"
        else:
            yield f"rotation {pending.rotation_id}: {_step_words(pending.step, begun=view.rotation is not None)}"
        if pending.refused:
            yield f"refused: {pending.refused}"
            yield "correct that, then `renew-client-cert resume`, or `renew-client-cert abort`"


def _step_words(step: int, *, begun: bool) -> str:
    if not begun:
        return "asked for, not begun"
    special = {
        SWITCHED: "switched, but the gateway has not taken the new certificate yet",
        PROVED: "taken by the gateway, its users are not told yet",
        ANNOUNCED: "in use, only tidying up is left to the next call",
    }
    return special.get(step, f"{step} of {SWITCHED} steps done")
