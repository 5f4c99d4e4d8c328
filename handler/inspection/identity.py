"""The identity in use, read without a login if the token shows its certificates without one."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from handler.crypto.csr import spki_der
from handler.device.configuration.configuration import FILE, TOKEN, Configuration, TokenConfig
from handler.device.key_files import FileKeyStore
from handler.device.keystore import IdentityNames
from handler.errors import RenewalError
from handler.inspection.pin_safety import Unsafe, why_no_login
from hsm.certificate import Certificate
from hsm.errors import TokenError

if TYPE_CHECKING:
    from hsm.inventory import Item
    from hsm.token import Token


@dataclass(frozen=True)
class Identity:
    """What the configuration names, and what was found; None means unknown."""

    source: str | None = None
    names: IdentityNames | None = None
    token: TokenConfig | None = None
    pin: str | None = None
    """The state of the token's PIN."""
    certificate: Certificate | None = None
    fits: bool | None = None
    """Whether the certificate belongs to the key in use."""
    problem: str | None = None
    passing: bool = False
    """Whether the problem may go away, such as an absent token."""
    items: "tuple[Item, ...]" = ()
    """The objects of the token that were visible."""
    opened: "Token | None" = None
    """The token, logged in, if `log_in` asked for it; the caller closes it."""
    refusal: TokenError | None = None
    """Why the login failed."""

    def days_left(self, now: datetime) -> int | None:
        """Return the whole days of validity left; negative after the end, None without a certificate."""
        end = None if self.certificate is None else self.certificate.end
        return None if end is None else (end - now).days


def read_identity(configured: Configuration, *, log_in: bool = False) -> Identity:
    """Read the identity in use. Raises nothing foreseeable: see `problem`.

    `log_in`: log in to the token if that risks no PIN attempt, and keep it open for the caller.
    """
    source, names = configured.source, configured.names
    if source is None or names is None:
        return Identity(source, names, configured.token, problem="; ".join(configured.wrong()))
    if source == FILE:
        return _in_files(names)
    if configured.token is None:
        return Identity(TOKEN, names, problem="; ".join(configured.wrong()))
    return _in_token(names, configured.token, configured.storage, log_in=log_in)


def _in_files(names: IdentityNames) -> Identity:
    store = FileKeyStore(Path())
    try:
        certificate = store.certificate(names.certificate)
    except RenewalError as error:
        return Identity(FILE, names, problem=str(error))
    try:
        fits = _same(certificate, spki_der(store.key(names.key).public_key()))
    except RenewalError as error:
        return Identity(FILE, names, certificate=certificate, problem=str(error))
    return Identity(FILE, names, certificate=certificate, fits=fits, problem=None if fits else _misfit(names))


def _in_token(names: IdentityNames, token: TokenConfig, storage: Path | None, *, log_in: bool) -> Identity:
    # Imported here: a device with keys in files needs no PKCS#11.
    from hsm.inventory import items, pin_state, public_items  # noqa: PLC0415

    known = Identity(TOKEN, names, token)
    try:
        known = replace(known, pin=pin_state(token.module, token.label).value)
        unseen = why_no_login(token, storage) if log_in else None
        if log_in and unseen is None:
            known = _logged_in(known, token, storage)
        if known.opened is None:
            known = replace(known, items=tuple(public_items(token.module, token.label)))
        if known.opened is None and not log_in and not _is_shown(known, names):
            unseen = why_no_login(token, storage)
            if unseen is None:
                with contextlib.closing(token_of(token, storage)) as opened:
                    known = replace(known, items=tuple(items(opened)))
    except TokenError as error:
        return replace(known, problem=str(error), passing=not error.final)
    return _judged(known, names, token, unseen)


def token_of(config: TokenConfig, storage: Path | None) -> "Token":
    """Return the token, which logs in on first use; a refused PIN is recorded."""
    from handler.device.refused_pin import RefusedPin  # noqa: PLC0415
    from hsm.token import Token  # noqa: PLC0415

    return Token(config.module, config.label, config.pin, None if storage is None else RefusedPin(storage))


def _logged_in(known: Identity, config: TokenConfig, storage: Path | None) -> Identity:
    """Read the objects after a login; if it fails, the public objects have to do."""
    from hsm.inventory import items  # noqa: PLC0415

    token = token_of(config, storage)
    try:
        return replace(known, items=tuple(items(token)), opened=token)
    except TokenError as error:
        token.close()
        return replace(known, refusal=error)


def _is_shown(known: Identity, names: IdentityNames) -> bool:
    """Tell whether key and certificate are visible without a login."""
    return bool(_under(known.items, "cert", names.certificate) and _under(known.items, "public", names.key))


_AMISS = "; correct the id in sota.toml, or register the device again"


def _judged(known: Identity, names: IdentityNames, token: TokenConfig, unseen: Unsafe | None) -> Identity:
    """Find the identity in use among the objects; `unseen` says why private ones are not visible."""
    items = known.items
    certificates = _under(items, "cert", names.certificate)
    if len(certificates) != 1 or certificates[0].certificate is None:
        found = f"found {len(certificates)}" if len(certificates) != 1 else "unreadable"
        hidden = f" (private objects are not shown: {unseen})" if unseen else ""
        return replace(
            known,
            problem=f"expected one certificate {names.certificate} in token {token.label!r}: {found}{hidden}{_AMISS}",
        )
    known = replace(known, certificate=certificates[0].certificate)
    keys = _under(items, "public", names.key)
    if not keys and len(_under(items, "private", names.key)) == 1:
        return known  # the certificate has the public key; a signature will show whether it fits
    if len(keys) != 1 or keys[0].spki is None:
        found = f"found {len(keys)}" if len(keys) != 1 else "unreadable, or of another type"
        return replace(
            known,
            problem=f"expected one public key {names.key} on P-256 or P-384 in token {token.label!r}: {found}{_AMISS}",
        )
    if _same(certificates[0].certificate, keys[0].spki):
        return replace(known, fits=True)
    fitting = " and ".join(_fitting(items, certificates[0], keys[0]))
    return replace(known, fits=False, problem=_misfit(names, fitting))


def _fitting(items: "Sequence[Item]", certificate: "Item", key: "Item") -> Iterator[str]:
    """Name the counterparts of a certificate and a key that do not belong together."""
    for item in items:
        if item.kind == "cert" and item.spki == key.spki:
            yield f"certificate {item.id} is for key {key.id}"
        if item.kind == "public" and item.spki is not None and item.spki == certificate.spki:
            yield f"certificate {certificate.id} is for key {item.id}"


def _under(items: "Sequence[Item]", kind: str, object_id: str) -> "list[Item]":
    return [each for each in items if (each.kind, each.id) == (kind, object_id)]


def _same(certificate: Certificate, spki: bytes | None) -> bool:
    key = certificate.ec_key()
    return key is not None and spki_der(key) == spki


def _misfit(names: IdentityNames, fitting: str = "") -> str:
    known = f"{fitting}; " if fitting else ""
    return (
        f"key {names.key} and certificate {names.certificate} do not belong together: {known}"
        "correct the ids in sota.toml"
    )
