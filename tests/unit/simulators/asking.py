"""A client that is not quite a device, and an event that it may send."""

import uuid

from tests.simulators.client import Client


def client_with_subject(pki, subject):
    client = Client(pki)
    draft = pki.device_draft(client.key.public_key())
    draft.subject = subject
    client.certificate = pki.issue(draft)
    return client


def an_event(name="CertRotationStarted", correlation="certs-1", **changes):
    payload = {"correlationId": correlation, "success": True, "targetName": "target", "version": "1"}
    return {
        "id": str(uuid.uuid4()),
        "deviceTime": "2026-11-23T11:35:46Z",
        "event": payload,
        "eventType": {"id": name, "version": 0},
    } | changes
