"""Rotation of a device's TLS client certificate, called by fioconfig."""

import sys

from hsm.lean import Lean

__version__ = "0.1.0"

sys.meta_path.insert(
    0,
    Lean(
        # What pkcs7 writes S/MIME messages with; and what host names need that are not ASCII, which are refused here.
        "email.generator",
        "email.policy",
        "idna",
        without={
            # The guesser of character sets; proxies from the environment, which play no part; CA bundles in archives.
            "requests": ["charset_normalizer", "urllib.request", "zipfile"],
            "tomlkit.items": ["inspect"],  # for encoders that somebody registers
            "urllib3.http2": ["importlib.metadata"],  # for the version of the library for HTTP/2, which is off
        },
    ),
)
