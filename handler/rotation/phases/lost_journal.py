"""Repair what a rotation left whose journal was lost: values that only its key can read.

A journal that cannot be read is set aside; so is that of a rotation that is given up while its key may be needed. That
rotation may have encrypted the device's files on the server to its new key, or switched to it before config.encrypted.
So `resume`, and the next rotation before it reuses a slot, check that the key in use can read everything, and otherwise
try our other keys. Offline, only config.encrypted is checked. The other keys stay where they are.
"""

import logging
from functools import partial

from handler.crypto.encrypted_values import ConfigEntries, check_readable
from handler.device.keystore import IdentityNames
from handler.device.storage import remove_whatever
from handler.errors import FORESEEABLE, RefusedError, ServerRefusedError, is_final
from handler.journal.pending import is_lost
from handler.rotation.context import Context
from handler.rotation.found import Wish
from hsm.errors import UnsupportedError

from .steps import move_device_config

log = logging.getLogger(__name__)

LEFTOVERS = "leftovers of an abandoned rotation could not be cleaned up: %s"


def mend(context: Context) -> None:
    """Encrypt every value that only another key of ours can read to the key in use."""
    journal, offline = context.journal, context.memory.wish is Wish.OFFLINE
    try:
        context.memory.changed = _mend(context, offline=offline)
    except FORESEEABLE as error:
        if is_final(error) and journal.broken.exists():
            remove_whatever(journal.refused)
            journal.broken.replace(journal.refused)  # retried only on request
            journal.settle_marker()
        raise
    if not offline:
        remove_whatever(journal.broken)
        remove_whatever(journal.refused)
        journal.settle_marker()


def repair(context: Context) -> Exception | None:
    """Mend what was lost, if anything was; return why that failed, if it did."""
    try:
        if is_lost(context.device.storage):
            mend(context)
    except FORESEEABLE as error:
        return error
    return None


def _mend(context: Context, *, offline: bool) -> bool:
    context.device.open_store()  # all ids: the lost rotation may have used others
    used = context.device.names_in_use()
    context.device.identity(used)
    mended = False
    # A failed request does not mean that anything is unreadable, so it is raised.
    config = None if offline else context.connections.gateway(used).device_config()
    if not _is_readable(context, used, config):
        store = context.device.store
        for spare in store.spare(used):
            try:
                mended |= store.find_key(spare.key) is not None and _mend_with(context, spare, used, offline=offline)
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
