"""Take over a rotation that fioconfig's own code left unfinished: STORAGE_DIR/cert-rotation.state.

fioconfig would resume that file itself and, as long as that fails, never check in. So its rotation moves into our
journal, at the step that it has reached, and the file is removed. With keys in files, it holds the new private key,
which gets a file named after its public key, so that a second attempt makes the same file.

A file with an invalid request (an id beyond 09, plain http), or one that appears while another rotation is pending, is
removed; if it holds a private key, it is moved into our folder, because only that key may be able to read something.

StepIdx counts what fioconfig has done: 1 key and certificate, 2 the gateway knows, 3 the local configuration, 4 the
server's files, 5 sota.toml and config.encrypted. Steps 3 and 4 run again: they skip what is done.
"""

import hashlib
import itertools
import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from handler.crypto import bounded_json
from handler.crypto.csr import spki_pem
from handler.device.device import Device
from handler.device.keystore import IdentityNames
from handler.device.request import RotationRequest, checked_request
from handler.device.storage import (
    MAX_BYTES,
    atomic_write,
    make_folder,
    put_in_place,
    read_regular,
    remove,
    remove_whatever,
)
from handler.errors import RefusedError, RequestRefusedError
from handler.journal.decoding import read
from handler.journal.journal import Journal
from handler.journal.pending import LOCKED, bounded_content
from handler.journal.rotation_state import SWITCHED, RotationState
from handler.rotation.context import Context
from hsm.certificate import Certificate
from hsm.errors import ObjectConflictError, ObjectMissingError, UnsupportedError

log = logging.getLogger(__name__)

NAME = "cert-rotation.state"
NOWHERE = IdentityNames("", "")
"""The old identity if fioconfig has overwritten its names; it is never touched."""


@dataclass(frozen=True)
class Left:
    """The content of the file, by the names and types of fioconfig's Go structure; null means empty."""

    RotationId: str
    EstServer: str
    StepIdx: int
    PkeySlotIds: tuple[str, ...] | None = None
    CertSlotIds: tuple[str, ...] | None = None
    NewKey: str | None = None
    NewCert: str | None = None
    FullConfigEncrypted: str | None = None

    @classmethod
    def parse(cls, data: bytes) -> "Left":
        """Read fioconfig's JSON. Raises ValueError."""
        content = bounded_json.loads(data)
        try:
            json.dumps(content, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("it contains half of a UTF-16 pair") from None
        return read(cls, content, NAME)

    def request(self, *, token: bool) -> RotationRequest:
        """Return what it asks for. Raises RequestRefusedError."""
        asked = {
            "ROTATIONID": self.RotationId,
            "ESTSERVER": self.EstServer,
            "PKEYIDS": ",".join(self.PkeySlotIds or ()),
            "CERTIDS": ",".join(self.CertSlotIds or ()),
        }
        return checked_request(asked, NAME, token=token)


UNUSABLE = (
    RefusedError,
    ObjectMissingError,
    ObjectConflictError,
    UnsupportedError,
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
)
"""Raised if the key or the certificate that fioconfig left is unusable."""


def take_over(context: Context) -> None:
    """Move a rotation that fioconfig left into the journal, if there is one. Idempotent."""
    device, journal = context.device, context.journal
    path, token = device.storage / NAME, device.token is not None
    try:
        content = bounded_content(path, MAX_BYTES)
        if content is None:
            return
        left = Left.parse(content)
        request = left.request(token=token)
    except (ValueError, RequestRefusedError) as error:
        _put_away(path, journal, f"it cannot be taken over ({error}), and fioconfig would fail on it forever")
        return
    pending = journal.facts.rotation
    if pending is not None and pending.rotation_id != request.rotation_id:
        _put_away(path, journal, f"rotation {pending.rotation_id} is pending")
        return
    if pending is None:
        log.warning("taking over rotation %s, which fioconfig left after step %d", request.rotation_id, left.StepIdx)
        if journal.facts.requested is None:  # so that the daemon retries if the token is missing now
            journal.request(request)
        device.open_store(request.key_ids, request.certificate_ids)
        try:
            state = _state(device, left, request)
        except UNUSABLE as error:
            log.warning("its key or certificate is missing (%s): starting it again", error)
            state = None
        if not token:
            _remove_copies(device, left, state)
        if state is None:
            journal.request(request)
        else:
            if state.old != device.names_in_use() and left.FullConfigEncrypted:
                state = _with_copy_aside(state, context, left.FullConfigEncrypted)
            journal.record(state, taken=journal.facts.requested == request)
    remove(path)


def _put_away(path: Path, journal: Journal, why: str) -> None:
    """Remove the file; one with a private key goes into the journal's folder, for its owner only. Raises OSError."""
    if path.is_symlink() or not path.is_file() or b"PRIVATE KEY" not in read_regular(path):
        log.warning("%s is removed: %s", path, why)
        remove_whatever(path)
        return
    target = journal.folder / NAME
    log.warning("%s holds a private key, and is set aside as %s: %s", path, target, why)
    make_folder(journal.folder)
    path.chmod(0o600)
    put_in_place(target, path, mtime_ns=path.stat().st_mtime_ns)


def _state(device: Device, left: Left, request: RotationRequest) -> RotationState | None:
    """Return the state of that rotation, by evidence; None if it has to start again."""
    if not left.NewKey or not left.NewCert:
        return None
    current = device.names_in_use()
    if device.token is not None:
        new = device.store.canonical(IdentityNames(left.NewKey, left.NewCert))
        certificate = device.store.certificate(new.certificate)
    else:
        certificate = Certificate.of_pem(left.NewCert.encode())
        new = current
        if device.store.certificate(current.certificate) != certificate:  # else sota.toml names fioconfig's own files
            new = device.store.canonical(_store_files(device.storage, left.NewKey, left.NewCert))
    key = device.store.find_key(new.key)
    if key is None or not certificate.holds(key.public_key()):
        return None
    switched = current == new
    return RotationState(
        request=request,
        old=_other(device, request, new) if switched else current,
        new=new,
        step=SWITCHED if switched and left.StepIdx >= SWITCHED else min(max(0, left.StepIdx), LOCKED),
        announced=left.StepIdx > 0,  # the next step may have been interrupted
        public_key=spki_pem(key.public_key()),
        certificate=certificate.pem,
    )


def _other(device: Device, request: RotationRequest, new: IdentityNames) -> IdentityNames:
    """Return the names of the old identity if sota.toml already has the new ones: the other ids of the token."""
    if device.token is None:
        return NOWHERE
    pairs = itertools.product(request.key_ids, request.certificate_ids)
    candidates = (device.store.canonical(IdentityNames(*pair)) for pair in pairs)
    # A request names two different ids of each kind.
    return next(each for each in candidates if each.key != new.key and each.certificate != new.certificate)


def _store_files(storage: Path, key_pem: str, certificate_pem: str) -> IdentityNames:
    """Store the new key and certificate in files, 0600. Raises RefusedError if they do not belong together."""
    key = serialization.load_pem_private_key(key_pem.encode(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise RefusedError(f"the new key in {NAME} is not an EC key")
    if not Certificate.of_pem(certificate_pem.encode()).holds(key.public_key()):
        raise RefusedError(f"the certificate in {NAME} does not belong to its key")
    number = hashlib.sha256(spki_pem(key.public_key()).encode()).hexdigest()[:10]
    names = IdentityNames(str(storage / f"pkey.{number}.pem"), str(storage / f"client.{number}.pem"))
    atomic_write(Path(names.key), key_pem.encode(), mode=0o600)
    atomic_write(Path(names.certificate), certificate_pem.encode(), mode=0o600)
    return names


def _remove_copies(device: Device, left: Left, state: RotationState | None) -> None:
    """Remove unused copies of the new key and certificate, complete or not, that fioconfig wrote.

    Each of its attempts at the last step writes a file with a new name before sota.toml names that file.
    """
    used = [device.names_in_use(), *([] if state is None else [state.old, state.new])]
    kept = {Path(name).resolve() for names in used for name in (names.key, names.certificate)}
    for pattern, text in (("pkey.*.pem", left.NewKey or ""), ("client.*.pem", left.NewCert or "")):
        for path in device.storage.glob(pattern) if text else ():
            if (
                path.resolve() not in kept
                and path.is_file()
                and text.encode().startswith(read_regular(path, follow=True))
            ):
                remove(path)


def _with_copy_aside(state: RotationState, context: Context, config: str) -> RotationState:
    """Store fioconfig's copy of config.encrypted, because the old key may be unknown."""
    if context.local_config.is_readable(context.device.store.key(state.new.key)):
        return state
    make_folder(context.journal.folder)
    atomic_write(context.journal.aside, config.encode(), mode=0o600)
    return replace(state, config_digest=context.local_config.digest())
