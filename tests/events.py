"""The events of a rotation that ends well, in their order, as operators see them."""

EVENTS = [
    "CertRotationStarted",
    "Generate new certificate",
    "Lock device configuration on server",
    "Update local configuration with new key",
    "Update device specific configuration on server with new key",
    "Finalize aktualizr configuration",
    "CertRotationCompleted",
]
STEPS = EVENTS[1:-1]
