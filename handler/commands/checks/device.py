"""The checks of the device itself: configuration, permissions, disk, certificate, clock, token, key."""

import os
import stat
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from handler.crypto import ecies
from handler.crypto.names import shown
from handler.device.config_encrypted import LocalConfig
from handler.device.configuration.configuration import CA_FILE, FILE, KEYS_OF_IDENTITY, TOKEN, Configuration, Value
from handler.device.keystore import REGISTER, FileKeyStore, KeyStore, refusal_by_openssl
from handler.device.storage import FOLDER, exposure
from handler.inspection.anchors import read_anchors
from handler.inspection.effective_request import EffectiveRequest
from handler.inspection.identity import read_identity, token_of
from handler.inspection.judgement import SOON
from handler.inspection.past import read_past
from handler.inspection.pin_safety import why_no_login
from handler.journal.snapshot import Snapshot
from handler.rotation.phases.enrolment import curve_of
from handler.rotation.phases.preflight import CLOCK_TOLERANCE
from hsm.curves import is_pair, shown_curve
from hsm.errors import UnsupportedError

from .disk import disk_finding
from .result import OK, PROBLEM, SKIPPED, WARNING, Found

_SECRET = "p11.pass"  # noqa: S105 - the name of the key that holds one
UNUSABLE = "the key in use cannot be used"


class DeviceChecks:
    """The checks of one device, a method for each topic, to be called in this order.

    They raise what reading the device raises: RefusedError, hsm.errors.TokenError, OSError. `close` logs out.
    """

    def __init__(self, configured: Configuration, asked: EffectiveRequest, view: Snapshot) -> None:
        self.configured = configured
        self.asked = asked
        self.view = view
        self.identity = read_identity(configured, log_in=True)
        self.names = self.identity.names
        self.store: KeyStore | None = None
        self.no_store = UNUSABLE
        """Why there is no store."""
        self.no_trust: str | None = None
        """Why no server can be trusted (no readable CA file); None if one can."""
        self.usable_key: ec.EllipticCurvePrivateKey | None = None
        """The key in use, once it has signed."""
        self._keys = KEYS_OF_IDENTITY.get(configured.source or "", ())
        """The configuration keys that a rotation changes."""

    def close(self) -> None:
        """Log out."""
        if opened := self.store or self.identity.opened:
            opened.close()

    def configuration(self) -> Iterator[Found]:
        """Report the file that each value comes from, and the file that a rotation would change."""
        configured = self.configured
        yield from ((PROBLEM, str(each)) for each in configured.unsure())
        yield from ((WARNING, text) for text in configured.odd)
        yield from (_value_finding(each) for each in configured.values() if not each.unread)
        if configured.sources_differ:
            yield PROBLEM, configured.sources_differ
        if self._keys and not list(configured.wrong()):
            yield OK, f"{configured.sota.check_writable(self._keys)} is writable; a rotation changes it"

    def permissions(self) -> Iterator[Found]:
        """Check who may read secrets and write to the storage folder."""
        configured, storage = self.configured, self.configured.storage
        pin, names_in = configured.value(_SECRET), configured.origin_of(self._keys)
        if configured.source == TOKEN and pin.text:
            yield _private(Path(pin.origin), "holds the PIN")
        if names_in is not None and names_in.name == "sota.toml" and str(names_in) != pin.origin:
            yield _private(names_in, "names key and certificate")
        if configured.source == FILE and self.names is not None and Path(self.names.key).exists():
            yield _private(Path(self.names.key), "is the key in use")
        if storage is None or not storage.is_dir():
            return
        if (storage / FOLDER).is_dir():
            yield _private(storage / FOLDER, "is the journal's folder", "700")
        writable, refused = exposure(storage), exposure(storage, group=False)
        yield from ((PROBLEM if text in refused else WARNING, text) for text in writable)
        if not writable:
            yield _private(storage, "is the storage folder", "700")

    def ca_file(self) -> Iterator[Found]:
        """Check the trust anchors for both servers."""
        self.no_trust = "no server can be trusted without the CA file"
        now, path = datetime.now(UTC), self.configured.ca_file
        if path is None:
            self.no_trust = f"{CA_FILE} is not known"
            yield SKIPPED, self._unknown(CA_FILE)
            return
        anchors, notes = self.configured.anchors()
        ended = sum(each.has_ended(now) for each in anchors)
        if ended:
            said = f"{path}: {ended} of {len(anchors)} certificates have expired; add the current ones of the factory"
            yield PROBLEM if ended == len(anchors) else WARNING, said
        else:
            said = f"{path}: trusted CA certificates: {len(anchors)}"
            yield (WARNING, f"{said}; {'; '.join(notes)}; replace these") if notes else (OK, said)
        if ended < len(anchors):
            self.no_trust = None
        for anchor in read_anchors(self.configured, self.identity.certificate, now):
            if anchor.warning and anchor.not_after > now:
                said = f"{anchor.subject} {anchor.warning}: add its successor; the device does not do that by itself"
                yield WARNING, said

    def disk(self) -> Iterator[Found]:
        """Check the folders that a rotation writes to, and their free space."""
        storage, target = self.configured.storage, self.configured.origin_of(self._keys)
        if storage is None:
            yield SKIPPED, self._unknown("storage.path")
            return
        for folder in sorted({storage, *([target.resolve().parent] if target else [])}):
            yield disk_finding(folder)

    def _unknown(self, key: str) -> str:
        return "the configuration cannot be read completely" if list(self.configured.unsure()) else f"{key} is not set"

    def certificate(self) -> Iterator[Found]:
        """Check the certificate in use."""
        identity = self.identity
        if identity.names is None:
            yield SKIPPED, "the configuration does not name one"
            return
        if identity.problem and identity.source == TOKEN and identity.pin is None:
            yield SKIPPED, "the token cannot be read"
        elif identity.problem:
            yield PROBLEM, identity.problem
        certificate = identity.certificate
        if certificate is None:
            return
        curve = shown_curve(curve_of(certificate))
        said = (
            f"{identity.names.certificate}: {shown(certificate.subject)}, {curve}, valid until {certificate.shown_end}"
        )
        left = certificate.end - datetime.now(UTC) if certificate.end else None
        if refusal := refusal_by_openssl(certificate):
            yield PROBLEM, f"{said}: {refusal}; {REGISTER}"
        elif left is None:
            yield WARNING, f"{said}: its end of validity is unreadable; rotate soon"
        elif left <= timedelta():
            yield PROBLEM, f"{said}: it has expired and servers refuse it; register the device again"
        elif left < SOON:
            yield WARNING, f"{said}: {left.days} days left; rotate soon"
        else:
            yield OK, f"{said}: {left.days} days left"

    def clock(self) -> Iterator[Found]:
        """Check that the certificate is already valid."""
        now, certificate = datetime.now(UTC), self.identity.certificate
        said = f"shows {now:%Y-%m-%d %H:%M} UTC"
        if certificate is not None and certificate.begins_after(now + CLOCK_TOLERANCE):
            yield PROBLEM, f"{said}, but the certificate is valid from {certificate.shown_begin}: set the clock"
        else:
            yield OK, said

    def token(self) -> Iterator[Found]:
        """Find the token, then log in if that risks no PIN attempt."""
        config, storage = self.configured.token, self.configured.storage
        if self.configured.source == FILE and storage is not None:
            self.store = FileKeyStore(storage)
            return
        if config is None:
            self.no_store = "the configuration does not name a key"
            return
        from hsm.inventory import pin_state  # noqa: PLC0415 - only where a token is used
        from hsm.keystore import TokenKeyStore  # noqa: PLC0415

        self.no_store = "the token is not open"
        pin_state(config.module, config.label)
        yield OK, f"{config.label} is present (module {config.module})"
        if self.identity.refusal is not None:
            raise self.identity.refusal
        unsafe = None if self.identity.opened else why_no_login(config, storage)
        if unsafe is not None:
            yield PROBLEM if unsafe.hopeless else WARNING, unsafe.reason
            return
        # Without a complete configuration, reading the identity did not open the token.
        token = self.identity.opened or token_of(config, storage)
        token.open()
        self.store, self.no_store = TokenKeyStore(token, self.asked.key_ids, self.asked.certificate_ids), UNUSABLE
        yield OK, "the PIN is correct, with all attempts left"

    def request(self) -> Iterator[Found]:
        """Check the request that a rotation would use."""
        if self.asked.problem:
            yield PROBLEM, self.asked.problem
        elif self.asked.est_server:
            yield OK, f"from {self.asked.origin}: EST server {self.asked.est_server}"
        else:
            yield SKIPPED, "there is none; try an EST server with --est-server URL"

    def slots(self) -> Iterator[Found]:
        """Check that the slots for the next identity are empty or ours."""
        rotation, asked = self.view.rotation, self.asked
        if self.store is None or self.names is None:
            yield SKIPPED, self.no_store
            return
        if rotation is not None:
            used = f"{rotation.new.key} and {rotation.new.certificate}"
            yield OK, f"{used} are used by rotation {rotation.rotation_id}"
            return
        new = self.store.unused(self.names)
        if self.configured.source == TOKEN:
            ids = f"{','.join(asked.key_ids)} and {','.join(asked.certificate_ids)}, from {asked.origin}"
            yield OK, f"key {new.key} and certificate {new.certificate} are empty or ours ({ids})"
        else:
            yield OK, f"new files can be made in {self.configured.storage}"

    def key(self) -> Iterator[Found]:
        """Sign and derive with the key in use, and read config.encrypted with it."""
        storage = self.configured.storage
        if self.store is None or self.names is None or storage is None:
            yield SKIPPED, self.no_store
            return
        key = self.store.key(self.names.key)
        if not is_pair(key):
            said = f"private and public key {self.names.key} do not belong together"
            yield PROBLEM, f"{said}: register the device again"
            return
        self.usable_key = key
        yield OK, f"{self.names.key} signs"
        local = LocalConfig(storage / "config.encrypted", storage / FOLDER / "config.encrypted")
        local.check_replaceable()
        encrypted = local.has_encrypted_values()
        there = "readable with this key" if encrypted else "nothing in it is encrypted"
        try:
            if encrypted and self.view.rotation is None:
                local.check_readable(key)
            elif not ecies.is_usable(key):
                yield PROBLEM, "it cannot decrypt what was encrypted to it: register the device again"
                return
            elif encrypted:  # during a rotation it may be encrypted to the other key
                there = "not checked while a rotation is pending"
            yield OK, f"decrypts (ECDH); config.encrypted: {there}"
        except UnsupportedError:
            said = "this token cannot derive keys (ECDH)"
            if encrypted:
                yield PROBLEM, f"{said}, and config.encrypted holds encrypted values"
            else:
                yield WARNING, f"{said}: do not encrypt configuration for this device"

    def rotation(self) -> Iterator[Found]:
        """Report what is pending, and the aftermath of a roll-back."""
        view, pending = self.view, self.view.pending
        if roll_back := read_past(self.configured.storage, view).roll_back:
            yield WARNING, str(roll_back)
        if view.problem:
            yield WARNING, view.problem
        elif view.left_by_fioconfig:
            yield WARNING, "fioconfig left an unfinished rotation: the next call takes it over"
        elif pending is None or pending.rotation_id is None:
            yield OK, "none is pending"
        elif pending.refused:
            what = "correct that, then `renew-client-cert resume`, or `renew-client-cert abort`"
            said = f"{pending.rotation_id} is pending after step {pending.step}, refused"
            yield PROBLEM, f"{said}: {pending.refused}; {what}"
        else:
            said = f"{pending.rotation_id} is pending after step {pending.step}"
            yield WARNING, f"{said}; `renew-client-cert status` says what it waits for"


def _value_finding(value: Value) -> Found:
    if value.problem:
        return PROBLEM, value.problem
    return OK, f"{value.key} = {'set, not shown' if value.key == _SECRET else value.text} ({value.origin})"


def _private(path: Path, what: str, mode: str = "600") -> Found:
    found = path.stat()
    said, shown_mode = f"{path} {what}", f"mode {stat.S_IMODE(found.st_mode):03o}"
    if found.st_mode & 0o077:
        return WARNING, f"{said}, and other users have access ({shown_mode}): chmod {mode}"
    if (found.st_uid, found.st_gid) != (os.geteuid(), os.getegid()):
        owner = f"user {found.st_uid} and group {found.st_gid}"
        return WARNING, f"{said}, and belongs to {owner}: chown it to {os.geteuid()}:{os.getegid()}"
    return OK, f"{said}, accessible to its owner only ({shown_mode})"
