"""What a rotation left whose journal was lost: keys that nothing names, and values that only they read.

A journal that cannot be read is set aside; so is that of a rotation that is given up while its key may be needed. It
may have moved the device's files on the server to its new key, or switched to that key with config.encrypted still for
the old one. So whoever resumes, and the next rotation before it takes the places of other keys, looks whether all can
be read with the key in use, and else tries the others of ours. Offline, config.encrypted alone is looked at.
"""

import logging
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from handler.crypto.encrypted_values import ConfigEntries, check_readable
from handler.crypto.names import same
from handler.device.keystore import IdentityNames
from handler.device.storage import remove_whatever
from handler.errors import FORESEEABLE, RefusedError, ServerRefusedError, describe, is_final
from handler.rotation.context import Context
from hsm.errors import UnsupportedError

from .steps import move_device_config

log = logging.getLogger(__name__)

_MADE = re.compile(r"/.*/pkey\.[0-9]{10}\.pem", re.ASCII)
"""The file of a key that a rotation made, which may have no certificate yet."""


@dataclass(frozen=True)
class LostJournal:
    """The journal that was set aside, if one was."""

    context: Context

    @property
    def exists(self) -> bool:
        """Whether a journal was lost, and not all is known to be readable since."""
        return self.due or self.context.journal.refused.exists()

    @property
    def due(self) -> bool:
        """Whether it is to be looked at without being asked."""
        return self.context.journal.broken.exists()

    def mend(self, *, offline: bool) -> bool:
        """Have every value that only another key of ours reads encrypted to the key in use; tell whether any was.

        `offline`: those of config.encrypted only. Opens the key store for all ids. Raises RefusedError where the
        identity in use cannot be used or the gateway refuses it, PendingError, hsm.errors.TokenError, OSError.
        """
        try:
            mended = self._mend(offline=offline)
        except FORESEEABLE as error:
            if is_final(error) and self.context.journal.broken.exists():
                self._become(self.context.journal.refused)  # tried again only by who is asked to
            raise
        if not offline:
            self._become(self.context.journal.mended)
        return mended

    def refusal(self) -> Exception | None:
        """Mend before another rotation begins, if there is anything; give why that was refused for good.

        Raises what may pass, like `mend`.
        """
        try:
            if self.exists:
                self.mend(offline=False)
        except FORESEEABLE as error:
            if not is_final(error):
                raise
            return error
        return None

    def _become(self, path: Path) -> None:
        for each in (self.context.journal.broken, self.context.journal.refused):
            if each.exists() and each != path:
                remove_whatever(path)
                each.replace(path)
        self.context.journal.settle_marker()

    def _mend(self, *, offline: bool) -> bool:
        self.context.device.open_store()  # for all ids: the rotation may have been asked for with others
        used = self.context.device.names_in_use()
        self.context.device.identity(used)
        mended = False
        # An answer that is none of the gateway's is no reason to take anything for unreadable: raised.
        config = None if offline else self.context.connections.gateway(used).device_config()
        if not self._is_readable(used, config):
            for spare in self._spare(used):
                try:
                    mended |= self._mend_with(spare, used, offline=offline)
                except UnsupportedError as error:  # this one cannot derive: nothing is encrypted to it
                    log.info("%s", error)
        if mended:
            log.warning(
                "a rotation that nobody goes on with had left values to another key: %s reads them now", used.key
            )
        return mended

    def _is_readable(self, used: IdentityNames, config: ConfigEntries | None) -> bool:
        try:
            key = self.context.device.store.key(used.key)
            self.context.local_config.check_readable(key)
            check_readable(config or {}, key)
        except (RefusedError, UnsupportedError) as error:
            log.info("%s", error)
            return False
        return True

    def _spare(self, used: IdentityNames) -> Iterator[IdentityNames]:
        store = self.context.device.store
        for names in store.spare(used):
            try:
                if store.find_key(names.key) is not None:
                    yield names
            except UnsupportedError as error:
                log.info("%s", error)

    def _mend_with(self, spare: IdentityNames, used: IdentityNames, *, offline: bool) -> bool:
        store = self.context.device.store
        mended = self.context.local_config.settle(None, partial(store.key, spare.key), partial(store.key, used.key))
        try:
            return mended | (not offline and move_device_config(self.context, spare, used, via=used))
        except ServerRefusedError:
            raise
        except RefusedError as error:  # nor does this one read it
            log.info("%s", error)
            return mended

    def clear(self) -> None:
        """Remove the keys that nothing names any more, once all could be read without them and a rotation is complete.

        What was not readable is tried once more. What fails here is left there: it keeps no rotation from ending.
        """
        try:
            if self.exists:
                self.mend(offline=False)
            if not self.context.journal.mended.exists():
                return
            used = self.context.device.names_in_use()
            for spare in self.context.device.store.spare(used):
                if self._is_of_this_device(spare, used):
                    self.context.device.store.retire(spare)
            remove_whatever(self.context.journal.mended)
        except FORESEEABLE as error:
            log.warning("keys that nothing names any more are left there: %s", describe(error))

    def _is_of_this_device(self, spare: IdentityNames, used: IdentityNames) -> bool:
        """Tell whether a key's certificate is one of this device, beside it: anything else may belong to somebody."""
        store = self.context.device.store
        if _MADE.fullmatch(spare.key) and not os.path.lexists(spare.certificate):
            return True
        try:
            key, certificate = store.find_key(spare.key), store.certificate(spare.certificate)
        except FORESEEABLE:
            return False
        mine = same(certificate.subject, store.certificate(used.certificate).subject)
        return mine and key is not None and certificate.holds(key.public_key())
