"""The two names that sota.toml holds of an identity in a token, as ids."""

import dataclasses
from typing import Protocol, TypeVar

from hsm.errors import UnsupportedError
from hsm.slots import ObjectId


class Names(Protocol):
    """The two ids of an identity as text, in a frozen dataclass (which dataclasses.replace can copy)."""

    @property
    def key(self) -> str:
        """The id of the key pair."""

    @property
    def certificate(self) -> str:
        """The id of the certificate."""


N = TypeVar("N", bound=Names)


def id_of(name: str) -> ObjectId:
    """Read one name. Raises UnsupportedError."""
    try:
        return ObjectId.parse(name)
    except ValueError as error:
        raise UnsupportedError(f"p11.tls_pkey_id or p11.tls_clientcert_id in sota.toml: {error}") from error


def ids_of(names: Names) -> tuple[ObjectId, ObjectId]:
    """Read both names: key, certificate. Raises UnsupportedError."""
    return id_of(names.key), id_of(names.certificate)


def with_ids(names: N, key: ObjectId, certificate: ObjectId) -> N:
    """Give a copy of the names with these ids."""
    # Names is a protocol, which cannot say that it is a dataclass too.
    copy: N = dataclasses.replace(names, key=str(key), certificate=str(certificate))  # type: ignore[type-var]
    return copy
