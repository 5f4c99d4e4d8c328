"""`status --json`: the status for programs."""

from datetime import UTC, datetime
from typing import Any

from handler.crypto import names
from handler.crypto.csr import spki_der
from handler.inspection.judgement import findings
from handler.inspection.objects import fingerprint
from handler.inspection.roll_back import RollBack
from handler.inspection.status import Status, undelivered
from hsm.certificate import Certificate

from .envelope import as_json, moment


def status_json(status: Status) -> str:
    """Give the status as JSON."""
    identity, view, last = status.identity, status.view, status.last
    content = {
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
        if last is None
        else {"rotation_id": last.rotation_id, "time": last.time, "success": last.success, "details": last.details},
        "rolled_back": _roll_back_json(status.roll_back),
        "pending": _pending_json(status),
        "left_by_fioconfig": view.left_by_fioconfig,
        "journal_problem": view.problem,
        "undelivered_events": undelivered(view),
        "running": status.running,
        "odd": "; ".join(status.odd) or None,
        "units": None
        if status.units is None
        else {
            name: {"installed": unit.installed, "active": unit.active, "enabled": unit.enabled}
            for name, unit in status.units.items()
        },
        "trust_anchors": [
            {
                "subject": each.subject,
                "fingerprint": each.fingerprint,
                "not_after": moment(each.not_after),
                "warning": each.warning,
            }
            for each in status.anchors
        ],
        "findings": [{"level": each.level, "code": each.code, "text": each.text} for each in findings(status)],
    }
    return as_json("status", content)


def _certificate_json(certificate: Certificate | None) -> dict[str, Any]:
    if certificate is None:
        return dict.fromkeys(("subject", "serial", "issuer", "fingerprint", "not_before", "not_after"))
    key = certificate.ec_key()
    return {
        "subject": names.shown(certificate.subject),
        "serial": certificate.serial,
        "issuer": names.shown(certificate.issuer),
        "fingerprint": None if key is None else fingerprint(spki_der(key)),
        "not_before": None if certificate.begin is None else moment(certificate.begin),
        "not_after": None if certificate.end is None else moment(certificate.end),
    }


def _roll_back_json(found: RollBack | None) -> dict[str, Any] | None:
    if found is None:
        return None
    kept = None if found.kept is None else {"key": found.kept.key, "certificate": found.kept.certificate}
    return {"rotation_id": found.rotation_id, "time": moment(found.time), "kept": kept}


def _pending_json(status: Status) -> dict[str, Any] | None:
    pending = status.pending
    if pending is None:
        return None
    waiting, rotation = pending.waiting, status.view.rotation
    return {
        "rotation_id": pending.rotation_id,
        "since": None if status.since is None else moment(status.since),
        "step": pending.step,
        "begun": rotation is not None,
        "refused": pending.refused,
        "rollback": rotation.rollback if rotation else None,
        "waits_for": waiting.reason if waiting else None,
        "waits_for_kind": waiting.kind if waiting else None,
        "until": None
        if waiting is None or waiting.moment is None
        else moment(datetime.fromtimestamp(waiting.moment, UTC)),
        "next_attempt": None if status.next_attempt is None else moment(status.next_attempt),
        "attempts": waiting.attempts if waiting else 0,
    }
