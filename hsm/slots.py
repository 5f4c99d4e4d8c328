"""How sota.toml names an identity, the ids of a token's objects (CKA_ID), and which one a rotation uses next.

fioconfig turns the text of an id into bytes one decimal digit at a time and drops leading zeros; aktualizr reads two
hexadecimal digits. They agree on `01` to `09` only. `1` and `01` are the same slot, and treating them as two would wipe
the one in use: every id is read into its two digits before it is compared.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NewType

from hsm.errors import ObjectConflictError, UnsupportedError

ObjectId = NewType("ObjectId", str)
"""An id in two digits, `01` to `09`: the byte that is CKA_ID in the token, in hexadecimal (PKCS#11 v2.40 §4.4.2)."""
ALL_IDS = tuple(ObjectId(f"0{value}") for value in range(1, 10))
_DIGITS = re.compile(r"0*([1-9])", re.ASCII)


@dataclass(frozen=True)
class IdentityNames:
    """How sota.toml names an identity: paths (files), or ids (token)."""

    key: str
    certificate: str

    @property
    def ids(self) -> tuple[ObjectId, ObjectId]:
        """The ids of key and certificate in a token. Raises UnsupportedError for anything but 01 to 09."""
        return id_of(self.key), id_of(self.certificate)


def id_of(name: str) -> ObjectId:
    """Read an id of sota.toml. Raises UnsupportedError for anything but 1 to 9."""
    try:
        return read_id(name)
    except ValueError as error:
        raise UnsupportedError(f"p11.tls_pkey_id or p11.tls_clientcert_id in sota.toml: {error}") from error


def read_id(text: str) -> ObjectId:
    """Read an id of a configuration (`7`, `07`). Raises ValueError for anything but 1 to 9."""
    match = _DIGITS.fullmatch(text.strip(" \t"))
    if match is None:
        raise ValueError(f"{text!r} is not an object id: expected 01 to 09")
    return ObjectId(f"0{match[1]}")


def parse_ids(text: str, name: str) -> tuple[ObjectId, ...]:
    """Read two or more distinct ids, separated by commas, as in PKEYIDS and CERTIDS (`name`). Raises ValueError."""
    ids: list[ObjectId] = []
    for item in text.split(","):
        try:
            object_id = read_id(item)
        except ValueError as error:
            raise ValueError(f"{name}={text}: {error}, separated by commas, such as 01,07") from None
        if object_id in ids:
            raise ValueError(
                f"{name}={text}: {item.strip()!r} is there twice: expected distinct ids (1 and 01 are one)"
            )
        ids.append(object_id)
    if len(ids) < 2:  # noqa: PLR2004 - one in use, one for the next
        raise ValueError(f"{name}={text}: expected two ids or more, so that one is free while the other is in use")
    return tuple(ids)


def alternate(ids: Sequence[ObjectId], in_use: ObjectId) -> ObjectId:
    """Return the first id of the list that is not in use. Raises ObjectConflictError if there is none."""
    for object_id in ids:
        if object_id != in_use:
            return object_id
    raise ObjectConflictError(f"the list has no id but {in_use}, which is in use: add another one")
