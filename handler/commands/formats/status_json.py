"""`status --json`: the status for programs."""

from typing import Any

from handler.crypto import names
from handler.crypto.csr import spki_der
from handler.inspection.judgement import findings
from handler.inspection.objects import fingerprint
from handler.inspection.status import Status
from hsm.certificate import Certificate

from .envelope import as_json


def status_json(status: Status) -> str:
    """Give the status as JSON."""
    identity, token = status.identity, status.identity.token
    content = {
        "storage": status.storage,
        "identity": {
            "source": identity.source,
            "key": identity.names.key if identity.names else None,
            "certificate": identity.names.certificate if identity.names else None,
            "token": token and {"label": token.label, "module": token.module, "pin": identity.pin},
            **_certificate_json(identity.certificate),
            "days_left": identity.days_left(status.now),
            "key_fits": identity.fits,
            "problem": identity.problem,
        },
        "slots": status.slots,
        "last_rotation": status.past.last,
        "rolled_back": status.past.roll_back,
        "pending": _pending_json(status),
        "left_by_fioconfig": status.view.left_by_fioconfig,
        "journal_problem": status.view.problem,
        "undelivered_events": status.undelivered,
        "running": status.running,
        "odd": "; ".join(status.odd) or None,
        "units": status.units,
        "trust_anchors": status.anchors,
        "findings": list(findings(status)),
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
        "not_before": certificate.begin,
        "not_after": certificate.end,
    }


def _pending_json(status: Status) -> dict[str, Any] | None:
    pending, rotation = status.pending, status.view.rotation
    if pending is None:
        return None
    waiting = pending.waiting
    return {
        "rotation_id": pending.rotation_id,
        "since": status.past.since,
        "step": pending.step,
        "begun": rotation is not None,
        "refused": pending.refused,
        "rollback": rotation.rollback if rotation else None,
        "waits_for": waiting.reason if waiting else None,
        "waits_for_kind": waiting.kind if waiting else None,
        "until": status.not_before,
        "next_attempt": status.next_attempt,
        "attempts": waiting.attempts if waiting else 0,
    }
