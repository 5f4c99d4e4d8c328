"""`status --prometheus`: the status as metrics, in Prometheus' text format 0.0.4. docs/monitoring.md."""

from collections.abc import Iterator
from datetime import datetime

from handler import __version__
from handler.inspection.judgement import PROBLEM, WARNING, findings
from handler.inspection.status import Status

PREFIX = "renew_client_cert_"
Value = float | datetime | None | list[tuple[dict[str, str], float]]
"""One sample without a label, or all of them with their labels; None: unknown."""
_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})


def metrics(status: Status) -> str:
    """Give the metrics, one family after the other; what is not known has no sample."""
    lines = []
    for name, text, value in _families(status):
        if value is None or value == []:
            continue
        number = value.timestamp() if isinstance(value, datetime) else value
        samples = number if isinstance(number, list) else [({}, float(number))]
        lines += [f"# HELP {PREFIX}{name} {text}", f"# TYPE {PREFIX}{name} gauge"]
        lines += [f"{PREFIX}{name}{_labels(labels)} {each:.15g}" for labels, each in samples]
    return "".join(f"{line}\n" for line in lines)


def _families(status: Status) -> Iterator[tuple[str, str, Value]]:
    certificate, pending, last = status.identity.certificate, status.pending, status.past.last
    yield "info", "Version of the program.", [({"version": __version__}, 1.0)]
    yield "certificate_loaded", "Whether the certificate in use can be read.", certificate is not None
    yield "identity_ok", "Whether key and certificate in use can be used.", status.identity.problem is None
    begin, end = (certificate.begin, certificate.end) if certificate else (None, None)
    yield "certificate_not_before_timestamp_seconds", "When the certificate in use becomes valid.", begin
    yield "certificate_not_after_timestamp_seconds", "When the certificate in use expires.", end
    yield "last_rotation_timestamp_seconds", "When the last rotation ended.", last.time if last else None
    yield "last_rotation_success", "Whether the last rotation succeeded.", last.success if last else None
    yield "rolled_back", "Whether no rotation has succeeded since a roll-back.", status.past.roll_back is not None
    yield "rotation_pending", "Whether a rotation is pending.", pending is not None
    yield "rotation_refused", "Whether the pending rotation was refused.", bool(pending and pending.refused)
    yield "rotation_pending_since_timestamp_seconds", "When the rotation became pending.", status.past.since
    yield "rotation_step", "Steps of the pending rotation that are done.", pending.step if pending else None
    attempts = pending.waiting.attempts if pending and pending.waiting else 0
    yield "rotation_attempts", "Consecutive attempts without progress.", attempts
    yield "undelivered_events", "Events that the device gateway has not accepted.", status.undelivered
    anchors = [({"subject": a.subject, "fingerprint": a.fingerprint}, a.not_after.timestamp()) for a in status.anchors]
    yield "trust_anchor_not_after_timestamp_seconds", "When a certificate of the CA file expires.", anchors
    units = (status.units or {}).items()
    yield "unit_active", "Whether a systemd unit is active.", [({"unit": name}, float(u.active)) for name, u in units]
    levels = [each.level for each in findings(status)]
    yield (
        "findings",
        "Number of findings in `renew-client-cert status --json`, by level.",
        [({"level": level}, float(levels.count(level))) for level in (WARNING, PROBLEM)],
    )
    yield "status_timestamp_seconds", "When these metrics were made.", status.now


def _labels(labels: dict[str, str]) -> str:
    pairs = ",".join(f'{name}="{value.translate(_ESCAPES)}"' for name, value in labels.items())
    return f"{{{pairs}}}" if labels else ""
