"""`status --json`: the status for programs. docs/status.md describes every field."""

import json
from datetime import datetime
from typing import Any

from cryptography import x509

from handler.crypto.certificates import ec_key_of, spki_der
from handler.inspection.objects import fingerprint
from handler.inspection.status import Status, serial, undelivered
from handler.journal.snapshot import Snapshot

VERSION = 1
"""Of the schema: fields are added to it without another number, never changed or removed."""


def as_json(status: Status) -> str:
    """Give the status as JSON, ASCII only: the schema is in docs/status.md."""
    identity, view = status.identity, status.view
    content = {
        "version": VERSION,
        "time": _time(status.now),
        "storage": None if status.storage is None else str(status.storage),
        "identity": {
            "source": identity.source,
            "key": identity.names.key if identity.names else None,
            "certificate": identity.names.certificate if identity.names else None,
            "token": None
            if identity.token is None
            else {"label": identity.token.label, "module": identity.token.module, "pin": identity.pin},
            **_certificate_json(identity.certificate),
            "days_left": identity.days_left(status.now),
            "key_fits": identity.fits,
            "problem": identity.problem,
        },
        "slots": [{"kind": each.kind, "id": each.id, "use": each.use} for each in status.slots],
        "last_rotation": None
        if status.last is None
        else {
            "rotation_id": status.last.rotation_id,
            "time": status.last.time,
            "success": status.last.success,
            "details": status.last.details,
        },
        "pending": _pending_json(view),
        "left_by_fioconfig": view.left_by_fioconfig,
        "journal_problem": view.problem,
        "undelivered_events": undelivered(view),
        "running": status.running,
        "odd": "; ".join(status.odd) or None,
    }
    return json.dumps(content, indent=2)


def _certificate_json(certificate: x509.Certificate | None) -> dict[str, Any]:
    if certificate is None:
        return dict.fromkeys(("subject", "serial", "issuer", "fingerprint", "not_before", "not_after"))
    key = ec_key_of(certificate)
    return {
        "subject": certificate.subject.rfc4514_string(),
        "serial": serial(certificate),
        "issuer": certificate.issuer.rfc4514_string(),
        "fingerprint": None if key is None else fingerprint(spki_der(key)),
        "not_before": _time(certificate.not_valid_before_utc),
        "not_after": _time(certificate.not_valid_after_utc),
    }


def _pending_json(view: Snapshot) -> dict[str, Any] | None:
    pending = view.pending
    if pending is None or pending.rotation_id is None:
        return None
    waiting = pending.waiting
    return {
        "rotation_id": pending.rotation_id,
        "step": pending.step,
        "begun": view.rotation is not None,
        "refused": pending.refused,
        "rollback": view.rotation.rollback if view.rotation else None,
        "waits_for": waiting.reason if waiting else None,
        "waits_for_kind": waiting.kind if waiting else None,
        "until": waiting.until if waiting else None,
        "attempts": waiting.attempts if waiting else 0,
    }


def _time(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
