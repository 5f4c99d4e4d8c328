"""What in a device's status needs attention: for `status --exit-status`, its JSON and its metrics.

| level | |
| --- | --- |
| problem | fix it: the identity in use, a rotation that was refused or failed |
| warning | worth watching: it goes on by itself, or there is time |
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

from .status import Status
from .units import DAEMON_UNIT

WARNING, PROBLEM = "warning", "problem"
SOON = timedelta(days=30)


@dataclass(frozen=True)
class Finding:
    """What was found; `code` does not change with the words."""

    level: str
    code: str
    text: str


def findings(status: Status) -> Iterator[Finding]:
    """Give what needs attention, problems first."""
    identity, pending, last = status.identity, status.pending, status.past.last
    if identity.problem:
        yield Finding(PROBLEM, "identity", identity.problem)
    if pending and pending.refused:
        yield Finding(PROBLEM, "refused", f"rotation {pending.rotation_id} was refused: {pending.refused}")
    if last and not last.success and pending is None:
        yield Finding(PROBLEM, "rotation-failed", f"rotation {last.rotation_id} failed: {last.details}")
    yield from _warnings(status)


def _warnings(status: Status) -> Iterator[Finding]:
    identity, pending, view = status.identity, status.pending, status.view
    if view.problem:
        yield Finding(WARNING, "journal", view.problem)
    if view.left_by_fioconfig:
        yield Finding(WARNING, "left-by-fioconfig", "a rotation that fioconfig left waits to be taken over")
    if status.past.roll_back:
        yield Finding(WARNING, "rolled-back", str(status.past.roll_back))
    if pending and not pending.refused:
        reason = f": {pending.waiting.reason}" if pending.waiting else ""
        yield Finding(WARNING, "pending", f"rotation {pending.rotation_id} is pending{reason}")
    if count := status.undelivered:
        yield Finding(WARNING, "undelivered", f"events not delivered yet: {count}")
    if status.due and status.units is not None and not status.units[DAEMON_UNIT].active:
        yield Finding(WARNING, "daemon", f"{DAEMON_UNIT} does not run, though there is something to do")
    end = identity.certificate.end if identity.certificate else None
    if end is not None and status.now < end < status.now + SOON:
        yield Finding(WARNING, "certificate-ends", f"the certificate in use ends {end:%Y-%m-%d}: rotate soon")
    for anchor in status.anchors:
        if anchor.warning:
            yield Finding(WARNING, "trust-anchor", f"trust anchor {anchor.subject} {anchor.warning}")
