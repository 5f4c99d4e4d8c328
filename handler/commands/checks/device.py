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
from handler.device.key_files import REGISTER, FileKeyStore, refusal_by_openssl
from handler.device.keystore import IdentityNames, KeyStore
from handler.device.storage import FOLDER, exposure
from handler.errors import RequestRefusedError
from handler.inspection.anchors import read_anchors
from handler.inspection.effective_request import EffectiveRequest
from handler.inspection.identity import read_identity, token_of
from handler.inspection.past import read_past
from handler.inspection.pin_safety import why_no_login
from handler.journal.snapshot import Snapshot
from handler.rotation.phases.enrolment import curve_of
from handler.rotation.phases.preflight import CLOCK_TOLERANCE
from hsm.curves import is_pair, shown_curve
from hsm.errors import UnsupportedError

from .disk import disk_finding
from .result import OK, WARNING, Result, ok, problem, skipped, warning

SOON = timedelta(days=30)
_SECRET = "p11.pass"  # noqa: S105 - the name of the key that holds one
UNREADABLE = "the configuration cannot be read completely"
UNUSABLE = "the key in use cannot be used"


class DeviceChecks:
    """The checks of one device. `identity` is the one in use; `store` its key store, once opened."""

    def __init__(self, configured: Configuration, asked: EffectiveRequest, view: Snapshot) -> None:
        self.configured = configured
        self.asked = asked
        self.view = view
        self.identity = read_identity(configured, log_in=True)
        self.store: KeyStore | None = None
        self.no_store = "the key in use cannot be used"
        """Why there is no store."""
        self.no_trust: str | None = None
        """Why no server can be trusted (no readable CA file); None if one can."""
        self.usable_key: ec.EllipticCurvePrivateKey | None = None
        """The key in use, once it has signed."""

    def close(self) -> None:
        """Log out."""
        if self.store is not None:
            self.store.close()
        elif self.identity.opened is not None:
            self.identity.opened.close()

    @property
    def names(self) -> IdentityNames | None:
        """The names of the identity in use."""
        return self.identity.names

    def configuration(self) -> Iterator[Result]:
        """Report the file that each value comes from, and the file that a rotation would change."""
        yield from (problem("configuration", str(each)) for each in self.configured.unsure())
        yield from (warning("configuration", text) for text in self.configured.odd)
        yield from (_value_finding(each) for each in self.configured.values() if not each.unread)
        if self.configured.sources_differ:
            yield problem("configuration", self.configured.sources_differ)
        if self.store_keys and not any(True for _ in self.configured.wrong()):
            target = self.configured.sota.check_writable(self.store_keys)
            yield ok("configuration", f"{target} is writable; a rotation changes it")

    @property
    def store_keys(self) -> tuple[str, ...]:
        """The configuration keys that a rotation changes."""
        return KEYS_OF_IDENTITY.get(self.configured.source or "", ())

    def permissions(self) -> Iterator[Result]:
        """Check who may read secrets, and whether the CA file is readable."""
        pin = self.configured.value(_SECRET)
        if self.configured.source == TOKEN and pin.text:
            yield _private(Path(pin.origin), "holds the PIN")
        names_in = self.configured.origin_of(self.store_keys)
        if names_in is not None and names_in.name == "sota.toml" and str(names_in) != pin.origin:
            yield _private(names_in, "names key and certificate")
        if self.configured.source == FILE and self.names is not None and Path(self.names.key).exists():
            yield _private(Path(self.names.key), "is the key in use")
        folder = self.configured.storage / FOLDER if self.configured.storage else None
        if folder is not None and folder.is_dir():
            yield _private(folder, "is the journal's folder", "700")
        if self.configured.storage and self.configured.storage.is_dir():
            writable = exposure(self.configured.storage)
            yield from (warning("permissions", text) for text in writable)
            if not writable:
                yield _private(self.configured.storage, "is the storage folder", "700")
        finding = _ca_finding(self.configured)
        self.no_trust = None if finding.level in (OK, WARNING) else "no server can be trusted without the CA file"
        yield finding
        now = datetime.now(UTC)
        for anchor in read_anchors(self.configured, self.identity.certificate, now):
            if anchor.warning and anchor.not_after > now:
                said = f"{anchor.subject} {anchor.warning}: add its successor; the device does not do that by itself"
                yield warning("CA file", said)

    def disk(self) -> Iterator[Result]:
        """Check the folders that a rotation writes to, and their free space."""
        storage = self.configured.storage
        if storage is None:
            yield skipped(
                "disk", UNREADABLE if any(True for _ in self.configured.unsure()) else "storage.path is not set"
            )
            return
        target = self.configured.origin_of(self.store_keys)
        for folder in sorted({storage, *([target.resolve().parent] if target else [])}):
            yield disk_finding(folder)

    def certificate(self) -> Iterator[Result]:
        """Check the certificate in use."""
        identity = self.identity
        if identity.problem and identity.names is None:
            yield skipped("certificate", "the configuration does not name one")
        elif identity.problem and identity.source == TOKEN and identity.pin is None:
            yield skipped("certificate", "the token cannot be read")
        elif identity.problem:
            yield problem("certificate", identity.problem)
        if identity.certificate is None or identity.names is None:
            return
        certificate, name = identity.certificate, identity.names.certificate
        curve = shown_curve(curve_of(certificate))
        said = f"{name}: {shown(certificate.subject)}, {curve}, valid until {certificate.shown_end}"
        if refusal := refusal_by_openssl(certificate):
            yield problem("certificate", f"{said}: {refusal}; {REGISTER}")
            return
        if certificate.end is None:
            yield warning("certificate", f"{said}: its end of validity is unreadable; rotate soon")
            return
        left = certificate.end - datetime.now(UTC)
        if left <= timedelta():
            yield problem("certificate", f"{said}: it has expired and servers refuse it; register the device again")
        elif left < SOON:
            yield warning("certificate", f"{said}: {left.days} days left; rotate soon")
        else:
            yield ok("certificate", f"{said}: {left.days} days left")

    def clock(self) -> Iterator[Result]:
        """Check that the certificate is already valid."""
        now = datetime.now(UTC)
        certificate = self.identity.certificate
        if certificate is not None and certificate.begins_after(now + CLOCK_TOLERANCE):
            begin = certificate.shown_begin
            yield problem(
                "clock", f"shows {now:%Y-%m-%d %H:%M} UTC, but the certificate is valid from {begin}: set the clock"
            )
        else:
            yield ok("clock", f"shows {now:%Y-%m-%d %H:%M} UTC")

    def token(self) -> Iterator[Result]:
        """Find the token, then log in if that risks no PIN attempt."""
        config, storage = self.configured.token, self.configured.storage
        if self.configured.source == FILE and storage is not None:
            self.store, self.no_store = FileKeyStore(storage), UNUSABLE
            return
        if self.configured.source != TOKEN or config is None:
            self.no_store = "the configuration does not name a key"
            return
        from hsm.inventory import pin_state  # noqa: PLC0415 - only where a token is used
        from hsm.keystore import TokenKeyStore  # noqa: PLC0415

        self.no_store = "the token is not open"
        pin_state(config.module, config.label)
        yield ok("token", f"{config.label} is present (module {config.module})")
        if self.identity.refusal is not None:
            raise self.identity.refusal
        unsafe = None if self.identity.opened else why_no_login(config, storage)
        if unsafe is not None:
            yield (problem if unsafe.hopeless else warning)("token", unsafe.reason)
            return
        # Without a complete configuration, reading the identity did not open the token.
        token = self.identity.opened or token_of(config, storage)
        token.open()
        self.store, self.no_store = TokenKeyStore(token, self.asked.key_ids, self.asked.certificate_ids), UNUSABLE
        yield ok("token", "the PIN is correct, with all attempts left")

    def slots(self) -> Iterator[Result]:
        """Check that the slots for the next identity are empty or ours."""
        if self.asked.problem:
            yield problem("request", self.asked.problem)
        elif self.asked.est_server:
            yield ok("request", f"from {self.asked.origin}: EST server {self.asked.est_server}")
        else:
            yield skipped("request", "there is none; try an EST server with --est-server URL")
        if self.store is None or self.names is None:
            yield skipped("slots", self.no_store)
        elif self.view.rotation is not None:
            new = self.view.rotation.new
            yield ok("slots", f"{new.key} and {new.certificate} are used by rotation {self.view.rotation.rotation_id}")
        else:
            new = self.store.unused(self.names)
            if self.configured.source == TOKEN:
                ids = f"{','.join(self.asked.key_ids)} and {','.join(self.asked.certificate_ids)}"
                said = f"key {new.key} and certificate {new.certificate} are empty or ours"
                yield ok("slots", f"{said} ({ids}, from {self.asked.origin})")
            else:
                yield ok("slots", f"new files can be made in {self.configured.storage}")

    def key(self) -> Iterator[Result]:
        """Sign and derive with the key in use, and read config.encrypted with it."""
        storage = self.configured.storage
        if self.store is None or self.names is None or storage is None:
            yield skipped("key", self.no_store)
            return
        key = self.store.key(self.names.key)
        if not is_pair(key):
            yield problem(
                "key", f"private and public key {self.names.key} do not belong together: register the device again"
            )
            return
        self.usable_key = key
        yield ok("key", f"{self.names.key} signs")
        local = LocalConfig(storage / "config.encrypted", storage / FOLDER / "config.encrypted")
        local.check_replaceable()
        encrypted = local.has_encrypted_values()
        there = "readable with this key" if encrypted else "nothing in it is encrypted"
        try:
            if encrypted and self.view.rotation is None:
                local.check_readable(key)
            elif not ecies.is_usable(key):
                yield problem("key", "it cannot decrypt what was encrypted to it: register the device again")
                return
            elif encrypted:  # during a rotation it may be encrypted to the other key
                there = "not checked while a rotation is pending"
            yield ok("key", f"decrypts (ECDH); config.encrypted: {there}")
        except UnsupportedError:
            if encrypted:
                said = "this token cannot derive keys (ECDH), and config.encrypted holds encrypted values"
                yield problem("key", said)
            else:
                yield warning(
                    "key", "this token cannot derive keys (ECDH): do not encrypt configuration for this device"
                )

    def rotation(self) -> Iterator[Result]:
        """Report what is pending, and the aftermath of a roll-back."""
        view = self.view
        if roll_back := read_past(self.configured.storage, view).roll_back:
            yield warning("rotation", str(roll_back))
        if view.problem:
            yield warning("rotation", view.problem)
        elif view.left_by_fioconfig:
            yield warning("rotation", "fioconfig left an unfinished rotation: the next call takes it over")
        elif view.pending is not None and view.pending.rotation_id is not None:
            said = f"{view.pending.rotation_id} is pending after step {view.pending.step}"
            if view.pending.refused:
                what = "correct that, then `renew-client-cert resume`, or `renew-client-cert abort`"
                yield problem("rotation", f"{said}, refused: {view.pending.refused}; {what}")
            else:
                yield warning("rotation", f"{said}; `renew-client-cert status` says what it waits for")
        else:
            yield ok("rotation", "none is pending")


def _value_finding(value: Value) -> Result:
    if value.problem:
        return problem("configuration", value.problem)
    shown = "set, not shown" if value.key == _SECRET else value.text
    return ok("configuration", f"{value.key} = {shown} ({value.origin})")


def _private(path: Path, what: str, mode: str = "600") -> Result:
    found = path.stat()
    said, shown = f"{path} {what}", f"mode {stat.S_IMODE(found.st_mode):03o}"
    if found.st_mode & 0o077:
        return warning("permissions", f"{said}, and other users have access ({shown}): chmod {mode}")
    if (found.st_uid, found.st_gid) != (os.geteuid(), os.getegid()):
        owner = f"user {found.st_uid} and group {found.st_gid}"
        return warning("permissions", f"{said}, and belongs to {owner}: chown it to {os.geteuid()}:{os.getegid()}")
    return ok("permissions", f"{said}, accessible to its owner only ({shown})")


def _ca_finding(configured: Configuration) -> Result:
    path = configured.ca_file
    if path is None:
        return skipped("CA file", UNREADABLE if any(True for _ in configured.unsure()) else f"{CA_FILE} is not set")
    try:
        anchors, notes = configured.anchors()
    except RequestRefusedError as error:
        return problem("CA file", str(error))
    ended = [each for each in anchors if each.has_ended(datetime.now(UTC))]
    if ended:
        said = f"{path}: {len(ended)} of {len(anchors)} certificates have expired; add the current ones of the factory"
        return (problem if len(ended) == len(anchors) else warning)("CA file", said)
    said = f"{path}: trusted CA certificates: {len(anchors)}"
    return warning("CA file", f"{said}; {'; '.join(notes)}; replace these") if notes else ok("CA file", said)
