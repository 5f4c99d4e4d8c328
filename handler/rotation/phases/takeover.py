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
from typing import NamedTuple

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
    NotRegularError,
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
from handler.journal.pending import LOCKED
from handler.journal.rotation_state import SWITCHED, RotationState
from handler.rotation.context import Context
from hsm.certificate import Certificate
from hsm.errors import ObjectConflictError, ObjectMissingError, UnsupportedError

log = logging.getLogger(__name__)

NAME = "cert-rotation.state"
NOWHERE = IdentityNames("", "")
"""The old identity if fioconfig has overwritten its names; it is never touched."""


@dataclass(frozen=True)
class _State:
    """fioconfig's JSON, by the names and types of its Go structure; null means empty."""

    # The names are fioconfig's.
    RotationId: str
    EstServer: str
    StepIdx: int
    PkeySlotIds: tuple[str, ...] | None = None
    CertSlotIds: tuple[str, ...] | None = None
    NewKey: str | None = None
    NewCert: str | None = None
    FullConfigEncrypted: str | None = None


class Left(NamedTuple):
    """The content of the file."""

    request: RotationRequest
    step: int
    new_key: str
    new_certificate: str
    full_config: str

    @classmethod
    def parse(cls, data: bytes, *, token: bool) -> "Left":
        """Read fioconfig's JSON. Raises ValueError, RequestRefusedError."""
        content = bounded_json.loads(data)
        try:
            json.dumps(content, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("it contains half of a UTF-16 pair") from None
        left = read(_State, content, NAME)
        asked = {
            "ROTATIONID": left.RotationId,
            "ESTSERVER": left.EstServer,
            "PKEYIDS": ",".join(left.PkeySlotIds or ()),
            "CERTIDS": ",".join(left.CertSlotIds or ()),
        }
        return cls(
            request=checked_request(asked, NAME, token=token),
            step=max(0, left.StepIdx),
            new_key=left.NewKey or "",
            new_certificate=left.NewCert or "",
            full_config=left.FullConfigEncrypted or "",
        )


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
    """Move a rotation that fioconfig left into the journal, if there is one. Idempotent.

    Raises RefusedError, hsm.errors.TokenError, OSError.
    """
    device, journal = context.device, context.journal
    path = device.storage / NAME
    try:
        left = Left.parse(_content(path), token=device.token is not None)
    except FileNotFoundError:
        return
    except (ValueError, RequestRefusedError) as error:
        _put_away(path, journal, f"it cannot be taken over ({error}), and fioconfig would fail on it forever")
        return
    if journal.facts.rotation is not None and journal.facts.rotation.rotation_id != left.request.rotation_id:
        _put_away(path, journal, f"rotation {journal.facts.rotation.rotation_id} is pending")
        return
    if journal.facts.rotation is None:
        log.warning("taking over rotation %s, which fioconfig left after step %d", left.request.rotation_id, left.step)
        if journal.facts.requested is None:  # so that the daemon retries if the token is missing now
            journal.request(left.request)
        device.open_store(left.request.key_ids, left.request.certificate_ids)
        try:
            state = _state(device, left)
        except UNUSABLE as error:
            log.warning("its key or certificate is missing (%s): starting it again", error)
            state = None
        if device.token is None:
            _remove_copies(device, left, state)
        if state is None:
            journal.request(left.request)
        else:
            if state.old != device.names_in_use() and left.full_config:
                state = _with_copy_aside(state, context, left)
            journal.record(state, taken=journal.facts.requested == left.request)
    remove(path)


def _content(path: Path) -> bytes:
    """Read the file if it is a regular one: other users may have put anything there. Raises ValueError, OSError."""
    try:
        data = read_regular(path, MAX_BYTES + 1)
    except NotRegularError as error:
        raise ValueError("it is not a regular file") from error
    if len(data) > MAX_BYTES:
        raise ValueError(f"it is longer than {MAX_BYTES} bytes")
    return data


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


def _state(device: Device, left: Left) -> RotationState | None:
    """Return the state of that rotation, by evidence; None if it has to start again."""
    if not left.new_key or not left.new_certificate:
        return None
    current = device.names_in_use()
    if device.token is not None:
        new = device.store.canonical(IdentityNames(left.new_key, left.new_certificate))
        certificate = device.store.certificate(new.certificate)
    else:
        certificate = Certificate.of_pem(left.new_certificate.encode())
        new = current
        if device.store.certificate(current.certificate) != certificate:  # else sota.toml names fioconfig's own files
            new = device.store.canonical(_store_files(device.storage, left, certificate))
    key = device.store.find_key(new.key)
    if key is None or not certificate.holds(key.public_key()):
        return None
    switched = current == new
    return RotationState(
        request=left.request,
        old=_other(device, left, new) if switched else current,
        new=new,
        step=SWITCHED if switched and left.step >= SWITCHED else min(left.step, LOCKED),
        announced=left.step > 0,  # the next step may have been interrupted
        public_key=spki_pem(key.public_key()),
        certificate=certificate.pem,
    )


def _other(device: Device, left: Left, new: IdentityNames) -> IdentityNames:
    """Return the names of the old identity if sota.toml already has the new ones: the other ids of the token."""
    if device.token is None:
        return NOWHERE
    pairs = itertools.product(left.request.key_ids, left.request.certificate_ids)
    candidates = (device.store.canonical(IdentityNames(*pair)) for pair in pairs)
    # A request names two different ids of each kind.
    return next(each for each in candidates if each.key != new.key and each.certificate != new.certificate)


def _store_files(storage: Path, left: Left, certificate: Certificate) -> IdentityNames:
    """Store the new key and certificate in files, 0600. Raises RefusedError if they do not belong together."""
    key = serialization.load_pem_private_key(left.new_key.encode(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise RefusedError(f"the new key in {NAME} is not an EC key")
    if not certificate.holds(key.public_key()):
        raise RefusedError(f"the certificate in {NAME} does not belong to its key")
    number = hashlib.sha256(spki_pem(key.public_key()).encode()).hexdigest()[:10]
    names = IdentityNames(str(storage / f"pkey.{number}.pem"), str(storage / f"client.{number}.pem"))
    atomic_write(Path(names.key), left.new_key.encode(), mode=0o600)
    atomic_write(Path(names.certificate), left.new_certificate.encode(), mode=0o600)
    return names


def _remove_copies(device: Device, left: Left, state: RotationState | None) -> None:
    """Remove unused copies of the new key and certificate, complete or not, that fioconfig wrote.

    Each of its attempts at the last step writes a file with a new name before sota.toml names that file.
    """
    used = [device.names_in_use(), *([] if state is None else [state.old, state.new])]
    kept = {Path(name).resolve() for names in used for name in (names.key, names.certificate)}
    for pattern, text in (("pkey.*.pem", left.new_key), ("client.*.pem", left.new_certificate)):
        for path in device.storage.glob(pattern) if text else ():
            if (
                path.resolve() not in kept
                and path.is_file()
                and text.encode().startswith(read_regular(path, follow=True))
            ):
                remove(path)


def _with_copy_aside(state: RotationState, context: Context, left: Left) -> RotationState:
    """Store fioconfig's copy of config.encrypted, because the old key may be unknown."""
    if context.local_config.is_readable(context.device.store.key(state.new.key)):
        return state
    make_folder(context.journal.folder)
    atomic_write(context.journal.aside, left.full_config.encode(), mode=0o600)
    return replace(state, config_digest=context.local_config.digest())
