"""Everything that knows PKCS#11: tokens, their slots, and keys that stay in them."""

import sys

from hsm.lean import LoadedWhenUsed

# python-pkcs11's helpers for keys that leave or enter a token; they bring asn1crypto (2 MB).
sys.meta_path.insert(0, LoadedWhenUsed(*(f"pkcs11.util.{name}" for name in ("dh", "dsa", "ec", "rsa", "x509"))))
