"""The two names that sota.toml holds of an identity, and the ids that they are in a token."""

from dataclasses import dataclass

from hsm.errors import UnsupportedError
from hsm.slots import ObjectId


@dataclass(frozen=True)
class IdentityNames:
    """How sota.toml names an identity: paths (files), or two-digit CKA_IDs (token)."""

    key: str
    certificate: str

    @property
    def ids(self) -> tuple[ObjectId, ObjectId]:
        """The ids of key and certificate in a token. Raises UnsupportedError."""
        return id_of(self.key), id_of(self.certificate)

    @property
    def canonical_ids(self) -> "IdentityNames":
        """The ids with two digits. Raises UnsupportedError for anything but 01 to 09."""
        return IdentityNames(*map(str, self.ids))


def id_of(name: str) -> ObjectId:
    """Read one id. Raises UnsupportedError."""
    try:
        return ObjectId.parse(name)
    except ValueError as error:
        raise UnsupportedError(f"p11.tls_pkey_id or p11.tls_clientcert_id in sota.toml: {error}") from error
