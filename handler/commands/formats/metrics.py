"""`status --prometheus`: the status as metrics, in Prometheus' text format 0.0.4. docs/monitoring.md."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

from handler import __version__
from handler.inspection.judgement import PROBLEM, WARNING, findings
from handler.inspection.status import Status

PREFIX = "renew_client_cert_"
Sample = tuple[Mapping[str, str], float]


def metrics(status: Status) -> str:
    """Give the metrics, one family after the other; what is not known has no sample."""
    lines = []
    for name, text, samples in _families(status):
        if samples:
            lines += [f"# HELP {PREFIX}{name} {text}", f"# TYPE {PREFIX}{name} gauge"]
            lines += [f"{PREFIX}{name}{_labels(labels)} {value:.15g}" for labels, value in samples]
    return "".join(f"{line}\n" for line in lines)


def _families(status: Status) -> Iterator[tuple[str, str, Sequence[Sample]]]:
    certificate, pending, last = status.identity.certificate, status.pending, status.past.last
    yield "info", "Version of the program.", [({"version": __version__}, 1.0)]
    yield "certificate_loaded", "Whether the certificate in use can be read.", _one(certificate is not None)
    yield "identity_ok", "Whether key and certificate in use can be used.", _one(status.identity.problem is None)
    begin, end = (certificate.begin, certificate.end) if certificate else (None, None)
    yield "certificate_not_before_timestamp_seconds", "When the certificate in use becomes valid.", _time(begin)
    yield "certificate_not_after_timestamp_seconds", "When the certificate in use expires.", _time(end)
    yield "last_rotation_timestamp_seconds", "When the last rotation ended.", _time(last.time if last else None)
    yield "last_rotation_success", "Whether the last rotation succeeded.", [] if last is None else _one(last.success)
    yield "rolled_back", "Whether no rotation has succeeded since a roll-back.", _one(status.past.roll_back is not None)
    yield "rotation_pending", "Whether a rotation is pending.", _one(pending is not None)
    yield "rotation_refused", "Whether the pending rotation was refused.", _one(bool(pending and pending.refused))
    yield "rotation_pending_since_timestamp_seconds", "When the rotation became pending.", _time(status.past.since)
    yield "rotation_step", "Steps of the pending rotation that are done.", _one(pending.step) if pending else []
    attempts = pending.waiting.attempts if pending and pending.waiting else 0
    yield "rotation_attempts", "Consecutive attempts without progress.", _one(attempts)
    count = status.undelivered
    yield "undelivered_events", "Events that the device gateway has not accepted.", [] if count is None else _one(count)
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
    yield "status_timestamp_seconds", "When these metrics were made.", _time(status.now)


def _one(value: float) -> list[Sample]:
    return [({}, float(value))]


def _time(time: datetime | None) -> list[Sample]:
    return [] if time is None else [({}, time.timestamp())]


def _labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    escaped = {
        name: value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"") for name, value in labels.items()
    }
    return "{" + ",".join(f'{name}="{value}"' for name, value in escaped.items()) + "}"
