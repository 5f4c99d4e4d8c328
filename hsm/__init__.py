"""Everything that knows PKCS#11: tokens, their slots, and keys that stay in them."""

import sys

from hsm.lean import Lean

sys.meta_path.insert(
    0,
    Lean(
        # python-pkcs11's helpers for keys that leave or enter a token; they bring asn1crypto (2 MB).
        *(f"pkcs11.util.{name}" for name in ("dh", "dsa", "ec", "rsa", "x509")),
        without={
            # Keys in OpenSSH's formats.
            "cryptography.hazmat.primitives.serialization": ["cryptography.hazmat.primitives.serialization.ssh"],
            "dataclasses": ["inspect"],  # for a class without a docstring (1 MB)
        },
    ),
)
