"""Where private keys and certificates live, PEM files or a token, and how sota.toml names them."""

from typing import TYPE_CHECKING, TypeAlias

from hsm.slots import IdentityNames

if TYPE_CHECKING:
    from hsm.keystore import TokenKeyStore

    from .key_files import FileKeyStore

__all__ = ["IdentityNames", "KeyStore"]

KeyStore: TypeAlias = "FileKeyStore | TokenKeyStore"
