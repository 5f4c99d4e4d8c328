"""The ids of a token's objects (CKA_ID), and which one a rotation uses next.

fioconfig turns the text of an id into bytes one decimal digit at a time and drops leading zeros; aktualizr reads two
hexadecimal digits. They agree on `01` to `09` only. Ids are compared by value, never as text: `1` and `01` are the same
slot, and treating them as two would wipe the one in use.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

_HIGHEST = 9
_DIGITS = re.compile(r"0*([1-9])", re.ASCII)


@dataclass(frozen=True, order=True)
class ObjectId:
    """The id of a key pair or certificate, by its value 1 to 9. Raises ValueError for any other value."""

    value: int

    def __post_init__(self) -> None:
        if not 1 <= self.value <= _HIGHEST:
            raise ValueError(f"an object id is a number from 1 to {_HIGHEST}, not {self.value}")

    @classmethod
    def parse(cls, text: str) -> "ObjectId":
        """Read an id of a configuration (`7`, `07`). Raises ValueError for anything but 1 to 9."""
        match = _DIGITS.fullmatch(text.strip(" \t"))
        if match is None:
            raise ValueError(f"{text!r} is not an object id: expected 01 to 09")
        return cls(int(match[1]))

    def __str__(self) -> str:
        return f"{self.value:02d}"

    @property
    def cka_id(self) -> bytes:
        """The byte that is CKA_ID in the token (PKCS#11 v2.40 §4.4.2)."""
        return bytes([self.value])


def parse_ids(text: str, name: str) -> tuple[ObjectId, ...]:
    """Read two or more distinct ids, separated by commas, as in PKEYIDS and CERTIDS (`name`). Raises ValueError."""
    ids: list[ObjectId] = []
    for item in text.split(","):
        try:
            object_id = ObjectId.parse(item)
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
    """Return the first id of the list that is not in use. Raises ValueError if there is none."""
    for object_id in ids:
        if object_id != in_use:
            return object_id
    raise ValueError(f"the list has no id but {in_use}, which is in use: add another one")
