"""What must hold of a device, its gateway and its token after any rotation, even one in which anything went wrong.

Those of a rotation that was cut off (tests.crash.invariants), and what can be asked of the factories that tests make:
that configuration files hold what they held before, and that an event keeps its one id and content.
"""

from handler.crypto.ecies import DecryptError
from tests.crash import invariants
from tests.simulators.device_config import DEVICE_FILES, FACTORY_FILES, plaintexts

OURS = ("PRIVATE_KEY", "PUBLIC_KEY", "CERTIFICATE")
ONCE = ("Lock device configuration on server", "Finalize aktualizr configuration")


def broken_invariants(factory, rotation_id, *, completed):
    """List what does not hold. `completed`: the rotation had to end well; otherwise with the old identity in use."""
    return [
        *invariants.broken_invariants(factory, rotation_id, completed=completed),
        *broken_files(factory),
        *_events(factory.gateway, rotation_id),
        *_token(factory.device),
    ]


def broken_files(factory):
    """List which configuration files do not hold what they held when the device was made."""
    own, all_files = plaintexts(DEVICE_FILES), plaintexts({**FACTORY_FILES, **DEVICE_FILES})
    try:
        with factory.device.private_key() as key:
            on_server = factory.gateway.files_readable_with(key)
        on_device = factory.device.plaintexts()
    except DecryptError as error:
        return [f"a configuration file is not readable with the key in use: {error}"]
    compared = [("on the server", own, on_server), ("in config.encrypted", all_files, on_device)]
    return [
        f"{where} {name} holds something else"
        for where, before, after in compared
        for name in before
        if after.get(name) != before[name]
    ]


def secrets_in_journal(device):
    """List the secrets that are found in the journal's folder: to be asked while a rotation is pending."""
    secrets = {f"the content of {name}": file.content for name, file in FACTORY_FILES.items() if _is_secret(file)}
    secrets["a private key"] = b"PRIVATE KEY"
    if device.token:
        secrets["the PIN"] = f'"{device.token.pin}"'.encode()
    files = [path for path in (device.storage / "renew-client-cert").rglob("*") if path.is_file()]
    contents = {path.name: path.read_bytes() for path in files}
    return [f"{what} in {name}" for name in contents for what, secret in secrets.items() if secret in contents[name]]


def _is_secret(file):
    return bool(file.content) and not file.unencrypted


def _events(gateway, rotation_id):
    """An event that is delivered twice is the same event twice."""
    contents = {}
    for event in gateway.events:
        if contents.setdefault(event["id"], event) != event:
            yield f"two events have the id {event['id']}"
    mine = [event for event in gateway.unique_events() if event["event"]["correlationId"] == rotation_id]
    ends = len(gateway.completed(rotation_id))  # one that was rolled back is tried again by the next call
    # What fioconfig had reported of a rotation that was taken over is reported again where it is done again.
    taken_over = any(event["id"].startswith("stock-") for event in mine)
    for name in ONCE if taken_over else invariants.EVENTS[:-1]:
        done = [each for each in mine if each["eventType"]["id"] == name and each["event"]["success"]]
        if len(done) > max(1, ends):
            yield f"{name} was reported as done {len(done)} times, under different ids"
    if gateway.dropped_events:
        yield "events have a correlation id that the gateway drops"


def _token(device):
    """Two identities at most, each of exactly one pair and one certificate."""
    ids = {kind: [each.id for each in device.token_objects() if each.object_class == kind and each.id] for kind in OURS}
    for kind, found in ids.items():
        if len(found) > 2 or len(set(found)) != len(found):
            yield f"the token holds objects {kind} under {found}"
    if ids["PRIVATE_KEY"] != ids["PUBLIC_KEY"]:
        yield f"the token holds halves of key pairs: {ids}"
    if len(ids["CERTIFICATE"]) != len(ids["PRIVATE_KEY"]):
        yield f"the token holds other certificates than key pairs: {ids}"
