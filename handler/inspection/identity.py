"""The identity in use, read without a login if the token shows its certificates without one."""

from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from handler.crypto.csr import spki_der
from handler.device.configuration.configuration import FILE, TOKEN, Configuration, TokenConfig
from handler.device.keystore import FileKeyStore, IdentityNames
from handler.errors import RenewalError
from handler.inspection.pin_safety import why_no_login
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
    store, known = FileKeyStore(Path()), Identity(FILE, names)
    try:
        known = replace(known, certificate=store.certificate(names.certificate))
        return _compared(known, names, spki_der(store.key(names.key).public_key()))
    except RenewalError as error:
        return replace(known, problem=str(error))


def _in_token(names: IdentityNames, config: TokenConfig, storage: Path | None, *, log_in: bool) -> Identity:
    # Imported here: a device with keys in files needs no PKCS#11.
    from hsm.inventory import pin_state, public_items  # noqa: PLC0415

    known, unseen = Identity(TOKEN, names, config), None
    try:
        known = replace(known, pin=pin_state(config.module, config.label).value)
        if not log_in:
            known = replace(known, items=tuple(public_items(config.module, config.label)))
        if log_in or not (_under(known, "cert", names.certificate) and _under(known, "public", names.key)):
            unseen = why_no_login(config, storage)
            if unseen is None:
                known = _logged_in(known, token_of(config, storage), keep=log_in)
            if log_in and known.opened is None:  # the public objects have to do
                known = replace(known, items=tuple(public_items(config.module, config.label)))
    except TokenError as error:
        return replace(known, problem=str(error), passing=not error.final)
    return _judged(known, names, f" (private objects are not shown: {unseen})" if unseen else "")


def _logged_in(known: Identity, token: "Token", *, keep: bool) -> Identity:
    """Read the objects after a login. `keep`: keep the token open, and a refusal; otherwise raise TokenError."""
    from hsm.inventory import items  # noqa: PLC0415

    try:
        known = replace(known, items=tuple(items(token)), opened=token if keep else None)
    except TokenError as error:
        if not keep:
            raise
        known = replace(known, refusal=error)
    finally:
        if known.opened is None:
            token.close()
    return known


def token_of(config: TokenConfig, storage: Path | None) -> "Token":
    """Return the token, which logs in on first use; a refused PIN is recorded."""
    from handler.device.refused_pin import RefusedPin  # noqa: PLC0415
    from hsm.token import Token  # noqa: PLC0415

    return Token(config.module, config.label, config.pin, None if storage is None else RefusedPin(storage))


def _judged(known: Identity, names: IdentityNames, hidden: str) -> Identity:
    """Find the identity in use among the objects; `hidden` says why private ones are not visible."""
    expected = "in token {!r}: {}; correct the id in sota.toml, or register the device again"
    label = known.token.label if known.token else ""
    certificates = _under(known, "cert", names.certificate)
    if len(certificates) != 1 or certificates[0].certificate is None:
        found = (f"found {len(certificates)}" if len(certificates) != 1 else "unreadable") + hidden
        return replace(known, problem=f"expected one certificate {names.certificate} {expected.format(label, found)}")
    known = replace(known, certificate=certificates[0].certificate)
    keys = _under(known, "public", names.key)
    if not keys and len(_under(known, "private", names.key)) == 1:
        return known  # the certificate has the public key; a signature will show whether it fits
    if len(keys) != 1 or keys[0].spki is None:
        found = f"found {len(keys)}" if len(keys) != 1 else "unreadable, or of another type"
        what = f"public key {names.key} on P-256 or P-384"
        return replace(known, problem=f"expected one {what} {expected.format(label, found)}")
    return _compared(known, names, keys[0].spki)


def _compared(known: Identity, names: IdentityNames, key: bytes) -> Identity:
    """Compare the certificate with the public key in use; if they differ, name what would fit in the token."""
    own = known.certificate.ec_key() if known.certificate else None
    spki = spki_der(own) if own else None
    if spki == key:
        return replace(known, fits=True)
    fitting = [
        f"certificate {each.id} is for key {names.key}"
        if each.kind == "cert"
        else f"certificate {names.certificate} is for key {each.id}"
        for each in known.items
        if each.spki and (each.kind, each.spki) in (("cert", key), ("public", spki))
    ]
    known_pairs = f"{' and '.join(fitting)}; " if fitting else ""
    said = f"key {names.key} and certificate {names.certificate} do not belong together"
    return replace(known, fits=False, problem=f"{said}: {known_pairs}correct sota.toml")


def _under(known: Identity, kind: str, object_id: str) -> "list[Item]":
    return [each for each in known.items if (each.kind, each.id) == (kind, object_id)]
