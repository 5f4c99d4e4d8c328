"""What must hold of a device and its gateway however a rotation was cut off, once it has recovered."""

from collections import Counter

from handler.crypto.ecies import DecryptError
from tests import journal as journals
from tests.events import EVENTS
from tests.simulators.pki import spki_pem


def broken_invariants(factory, rotation_id, *, completed):
    """List what does not hold. `completed`: the rotation had to end well; otherwise rolled back."""
    return [
        *_identity(factory, completed=completed),
        *_readable(factory),
        *_events(factory.gateway, rotation_id, completed=completed),
        *_leftovers(factory.device),
        *_keys(factory.device, completed=completed),
    ]


def _identity(factory, *, completed):
    identity = factory.device.current_identity()
    if not identity.whole:
        yield "key and certificate that sota.toml names do not belong together"
    if factory.gateway.current != identity.public_key:
        yield "the gateway expects another key than the one that sota.toml names"
    if (identity.public_key == spki_pem(factory.device.certificate.public_key())) == completed:
        yield "the old identity is in use" if completed else "the new identity is in use"


def _readable(factory):
    try:
        with factory.device.private_key() as key:
            factory.gateway.files_readable_with(key)
    except DecryptError as error:
        yield f"the device's files on the server are not readable: {error}"
    try:
        factory.device.plaintexts()
    except DecryptError as error:
        yield f"config.encrypted is not readable: {error}"


def _events(gateway, rotation_id, *, completed):
    """What was switched, rolled back then or not, went through every step: each has to be reported as done."""
    names = gateway.event_names(rotation_id)
    missing = [name for name in EVENTS if name not in names and (completed or name != EVENTS[-1])]
    if missing:
        yield f"events were not delivered: {missing}"
    ends = [event["event"]["success"] for event in gateway.completed(rotation_id) if not _tells_of_hooks(event)]
    if completed and (True not in ends or not ends[-1] or (ends.count(True) > 1 and False not in ends)):
        yield f"its completion was reported as {ends}"
    if not completed and (True in ends or False not in ends):
        yield f"its failure was reported as {ends}"


def _tells_of_hooks(event):
    """Whether it is the second success, which reports hooks that failed."""
    return event["event"]["success"] and "hooks.d" in event["event"].get("details", "")


def _leftovers(device):
    left = sorted(path.name for path in device.storage.rglob("*") if path.name.endswith(".tmp"))
    of_kept = {"journal", "pending", "rotation.json"} if journals.kept(device.storage) else set()
    left += sorted(
        path.name
        for path in (device.storage / "renew-client-cert").glob("*")
        if path.name not in {*of_kept, "history.jsonl"}
    )
    if not journals.is_idle(device.storage):
        left.append("the journal")
    if left:
        yield f"left over: {left}"


def _keys(device, *, completed):
    """One identity is in use; the journal may name one that is kept; a token has the old one too."""
    kept = journals.kept(device.storage)
    if device.token:
        # Without an id: what SoftHSM leaves when it is killed inside a call. It holds no key, and no search finds it.
        counts = Counter(each.object_class for each in device.token_objects() if each.id)
        if max(counts.values()) > (2 if completed or kept else 1):
            yield f"the token holds {dict(counts)}"
        return
    known = {device.current_identity().key, str(device.storage / "pkey.pem"), kept and kept["new"]["key"]}
    unknown = [path.name for path in device.private_key_files() if str(path) not in known]
    if unknown:
        yield f"private keys that nothing refers to: {unknown}"
