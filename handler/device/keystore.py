"""Where private keys and certificates live: the KeyStore protocol, and its form for plain files.

A store names what it holds by the text that stands in sota.toml: a path (files) or a two-digit CKA_ID (token).
"""

import logging
import ssl
from dataclasses import dataclass
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric import ec

from hsm.certificate import Certificate

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class IdentityNames:
    """The two names that sota.toml holds of one identity: paths (files), or two-digit CKA_IDs (token)."""

    key: str
    certificate: str


class KeyStore(Protocol):
    """A place for key pairs and certificates, by name."""

    sota_keys: tuple[str, str]
    """The configuration keys that hold the key's and the certificate's name."""

    def canonical(self, names: IdentityNames) -> IdentityNames:
        """Give the names in the one form in which equal things are equal text ("1" and "01"; two paths of a file)."""

    def unused(self, current: IdentityNames) -> IdentityNames:
        """Choose the names for the next identity, and check that their places are free or ours. Changes nothing."""

    def key(self, name: str) -> ec.EllipticCurvePrivateKey:
        """Load a private key; it may be one that stays in its token."""

    def find_key(self, name: str) -> ec.EllipticCurvePrivateKey | None:
        """Load a private key if there is exactly one whole pair under that name, else None."""

    def certificate(self, name: str) -> Certificate:
        """Load the certificate (the first of its file, where that holds several)."""

    def generate(self, name: str, curve: ec.EllipticCurve) -> ec.EllipticCurvePrivateKey:
        """Make a new key pair under that name, after removing what is ours there."""

    def store_certificate(self, name: str, certificate: Certificate) -> None:
        """Store the certificate under that name, in the place of what is ours there. Can be run again."""

    def discard(self, names: IdentityNames) -> None:
        """Remove a key and certificate that a rotation made and that is not in use. Can be run again."""

    def spare(self, current: IdentityNames) -> list[IdentityNames]:
        """Give the other identities that a rotation may have made here, as far as their keys go."""

    def retire(self, names: IdentityNames) -> None:
        """Remove an identity that is no longer in use, as far as this kind of store does not keep it."""

    def can_derive(self, name: str) -> bool:
        """Tell whether that key can do ECDH, which encrypted configuration values need."""

    def check(self, names: IdentityNames) -> None:
        """See that the identity is there still, right before the configuration names it."""

    def authenticate(self, context: ssl.SSLContext, names: IdentityNames) -> None:
        """Make the context present that identity: the one certificate, without a chain."""

    def close(self) -> None:
        """Let go of whatever is open. The store is not used again."""
