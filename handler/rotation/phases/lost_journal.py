"""Clean up after a rotation whose journal was lost: keys that nothing names, and values that only they can read.

A journal that cannot be read is set aside; so is that of a rotation that is given up while its key may be needed. That
rotation may have encrypted the device's files on the server to its new key, or switched to it before config.encrypted.
So `resume`, and the next rotation before it reuses a slot, check that the key in use can read everything, and otherwise
try our other keys. Offline, only config.encrypted is checked.
"""

import logging
import os
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from handler.crypto.encrypted_values import ConfigEntries, check_readable
from handler.crypto.names import same
from handler.device.keystore import IdentityNames
from handler.device.storage import remove_whatever
from handler.errors import FORESEEABLE, RefusedError, ServerRefusedError, describe, is_final
from handler.rotation.context import Context
from handler.rotation.found import Wish
from hsm.errors import UnsupportedError

from .steps import move_device_config

log = logging.getLogger(__name__)

_MADE = re.compile(r"/.*/pkey\.[0-9]{10}\.pem", re.ASCII)
"""A key file that a rotation made; it may have no certificate yet."""


def mend(context: Context) -> bool:
    """Encrypt every value that only another key of ours can read to the key in use; tell whether there was any.

    Opens the key store for all ids. Raises RefusedError if the identity in use is unusable or the gateway refuses it,
    PendingError, hsm.errors.TokenError, OSError.
    """
    offline = context.memory.wish is Wish.OFFLINE
    try:
        mended = _mend(context, offline=offline)
    except FORESEEABLE as error:
        if is_final(error) and context.journal.broken.exists():
            _become(context, context.journal.refused)  # retried only on request
        raise
    if not offline:
        _become(context, context.journal.mended)
    return mended


def refusal(context: Context) -> Exception | None:
    """Repair before another rotation starts; return why that was permanently refused, if it was.

    Raises temporary errors like `mend`.
    """
    try:
        if context.journal.is_lost:
            mend(context)
    except FORESEEABLE as error:
        if not is_final(error):
            raise
        return error
    return None


def _become(context: Context, path: Path) -> None:
    for each in (context.journal.broken, context.journal.refused):
        if each.exists() and each != path:
            remove_whatever(path)
            each.replace(path)
    context.journal.settle_marker()


def _mend(context: Context, *, offline: bool) -> bool:
    context.device.open_store()  # all ids: the lost rotation may have used others
    used = context.device.names_in_use()
    context.device.identity(used)
    mended = False
    # A failed request does not mean that anything is unreadable, so it is raised.
    config = None if offline else context.connections.gateway(used).device_config()
    if not _is_readable(context, used, config):
        for spare in _spare(context, used):
            try:
                mended |= _mend_with(context, spare, used, offline=offline)
            except UnsupportedError as error:  # it cannot derive, so nothing is encrypted to it
                log.info("%s", error)
    if mended:
        log.warning("an abandoned rotation had left values encrypted to another key: %s can read them now", used.key)
    return mended


def _is_readable(context: Context, used: IdentityNames, config: ConfigEntries | None) -> bool:
    try:
        key = context.device.store.key(used.key)
        context.local_config.check_readable(key)
        check_readable(config or {}, key)
    except (RefusedError, UnsupportedError) as error:
        log.info("%s", error)
        return False
    return True


def _spare(context: Context, used: IdentityNames) -> Iterator[IdentityNames]:
    store = context.device.store
    for names in store.spare(used):
        try:
            if store.find_key(names.key) is not None:
                yield names
        except UnsupportedError as error:
            log.info("%s", error)


def _mend_with(context: Context, spare: IdentityNames, used: IdentityNames, *, offline: bool) -> bool:
    store = context.device.store
    mended = context.local_config.settle(None, partial(store.key, spare.key), partial(store.key, used.key))
    try:
        return mended | (not offline and move_device_config(context, spare, used, via=used))
    except ServerRefusedError:
        raise
    except RefusedError as error:  # this one cannot read it either
        log.info("%s", error)
        return mended


def clear(context: Context) -> None:
    """Remove keys that nothing names, after a complete rotation and once everything is readable without them.

    A failure here is only a warning: the rotation is complete.
    """
    journal, device = context.journal, context.device
    try:
        if journal.is_lost:
            mend(context)
        if not journal.mended.exists():
            return
        used = device.names_in_use()
        for spare in device.store.spare(used):
            if _is_of_this_device(context, spare, used):
                device.store.retire(spare)
        remove_whatever(journal.mended)
    except FORESEEABLE as error:
        log.warning("cannot remove keys that are no longer used: %s", describe(error))


def _is_of_this_device(context: Context, spare: IdentityNames, used: IdentityNames) -> bool:
    """Tell whether a key has a certificate of this device: anything else may belong to another program."""
    store = context.device.store
    if _MADE.fullmatch(spare.key) and not os.path.lexists(spare.certificate):
        return True
    try:
        key, certificate = store.find_key(spare.key), store.certificate(spare.certificate)
    except FORESEEABLE:
        return False
    mine = same(certificate.subject, store.certificate(used.certificate).subject)
    return mine and key is not None and certificate.holds(key.public_key())
