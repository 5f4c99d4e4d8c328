"""What a rotation left whose journal was lost: keys that nothing names, and values that only they read.

A journal that cannot be read is set aside. The rotation in it may have moved the device's files on the server to its
new key, or switched to that key with config.encrypted still for the old one. So the next one that begins tries every
other key of ours, before it takes their places; offline, config.encrypted alone is looked at.
"""

import logging
from dataclasses import dataclass
from functools import partial

from .device import Device
from .errors import RefusedError, ServerRefusedError
from .keystore import IdentityNames
from .state import Journal
from .steps import Steps
from .storage import remove

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LostJournal:
    """The journal that was set aside, if one was."""

    device: Device
    journal: Journal
    steps: Steps

    @property
    def exists(self) -> bool:
        """Whether a journal was lost, and no rotation has been completed since."""
        return self.journal.broken.exists()

    def mend(self, *, offline: bool) -> bool:
        """Have every value that only another key of ours reads encrypted to the key in use; tell whether any was.

        `offline`: those of config.encrypted only. The store is open for the ids that may hold such keys. Raises
        RefusedError where the identity in use cannot be used, PendingError, hsm.errors.TokenError, OSError.
        """
        used = self.device.names_in_use()
        self.device.identity(used)
        store, mended = self.device.store, False
        for spare in store.spare(used):
            if store.find_key(spare.key) is None:
                continue
            mended |= self.steps.local_config.settle(None, partial(store.key, spare.key), partial(store.key, used.key))
            mended |= not offline and self._move_files(spare, used)
        return mended

    def _move_files(self, spare: IdentityNames, used: IdentityNames) -> bool:
        try:
            return self.steps.move_device_config(spare, used, via=used)
        except ServerRefusedError:
            raise
        except RefusedError as error:  # nor does this one read it
            log.info("%s", error)
            return False

    def clear(self) -> None:
        """Remove the keys that nothing names any more, and the journal: a rotation was completed after it."""
        if self.exists:
            for spare in self.device.store.spare(self.device.names_in_use()):
                self.device.store.retire(spare)
            remove(self.journal.broken)
