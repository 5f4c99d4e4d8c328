"""What is in use of what lies in the token or in the storage folder, and whose the rest is.

| use | |
| --- | --- |
| in use | the configuration names it |
| pending | a rotation that is not finished made it, or may still go back to it |
| free | a rotation made it once: the next one may take its place |
| leftover | a file that a rotation made and that nothing names any more |
| kept | a file that was provisioned: never removed |
| ambiguous | under an id in use there is more than one of its class: a rotation is refused |
| not ours | somebody else's: never touched |
"""

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from handler.device.keystore import IdentityNames

if TYPE_CHECKING:
    from hsm.inventory import Item

IN_USE, PENDING, FREE, LEFTOVER = "in use", "pending", "free", "leftover"
KEPT, AMBIGUOUS, STRANGE = "kept", "ambiguous", "not ours"


def fingerprint(spki: bytes | None) -> str:
    """Give the first 12 hexadecimal digits of the SHA-256 of a public key (SubjectPublicKeyInfo, DER); `-` for none."""
    return hashlib.sha256(spki).hexdigest()[:12] if spki else "-"


def use_of(
    item: "Item", items: "Sequence[Item]", names: IdentityNames | None, pending: Sequence[IdentityNames] = ()
) -> str:
    """Say whether an object is in use, free to be replaced, or somebody else's."""
    place = {"private": "key", "public": "key", "cert": "certificate"}.get(item.kind)
    label = {"key": "tls", "certificate": "client"}.get(place or "")
    if place is None:
        return STRANGE
    if names is not None and item.id == getattr(names, place):
        alike = [each for each in items if (each.kind, each.cka_id) == (item.kind, item.cka_id)]
        return IN_USE if len(alike) == 1 else AMBIGUOUS
    if item.label != label or item.id not in {f"{number:02d}" for number in range(1, 10)}:
        return STRANGE
    return PENDING if any(item.id == getattr(each, place) for each in pending) else FREE
