"""How objects in the token and files in the storage folder are used.

| use | |
| --- | --- |
| in use | the configuration names it |
| pending | a pending rotation made it, or may still roll back to it |
| free | an earlier rotation made it: the next one may replace it |
| leftover | a file that a rotation made and that nothing uses |
| kept | a provisioned file: never removed |
| ambiguous | several objects of one class have an id in use: rotations are refused |
| not ours | never touched |
"""

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from handler.device.keystore import IdentityNames

if TYPE_CHECKING:
    from hsm.inventory import Item

IN_USE, PENDING, FREE, LEFTOVER = "in use", "pending", "free", "leftover"
KEPT, AMBIGUOUS, STRANGE = "kept", "ambiguous", "not ours"


def fingerprint(spki: bytes) -> str:
    """Return 12 hexadecimal digits of the SHA-256 of a public key (SubjectPublicKeyInfo, DER)."""
    return hashlib.sha256(spki).hexdigest()[:12]


def use_of(
    item: "Item", items: "Sequence[Item]", names: IdentityNames | None, pending: Sequence[IdentityNames] = ()
) -> str:
    """Return how an object is used: one of the table above."""
    place = {"private": "key", "public": "key", "cert": "certificate"}.get(item.kind)
    label = {"key": "tls", "certificate": "client"}.get(place or "")
    if place is None:
        return STRANGE
    if names is not None and item.id == getattr(names, place):
        alike = [each for each in items if (each.kind, each.id) == (item.kind, item.id)]
        return IN_USE if len(alike) == 1 else AMBIGUOUS
    is_strange = place == "key" and item.key_type[:2] not in ("P-", "EC", "")
    if is_strange or item.label != label or item.id not in {f"{number:02d}" for number in range(1, 10)}:
        return STRANGE
    return PENDING if any(item.id == getattr(each, place) for each in pending) else FREE
