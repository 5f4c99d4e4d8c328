"""Acting as a user without privileges, in a folder that such a user can reach."""

import os
import tempfile
from contextlib import contextmanager
from pathlib import Path

NOBODY = 65534


@contextmanager
def unprivileged():
    """Act as a user without privileges, where the tests run as root."""
    if os.geteuid():
        yield
        return
    group = os.getegid()
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(group)


@contextmanager
def reachable_folder():
    """Give a temporary folder that anybody may read and write (pytest's own are the tester's alone)."""
    with tempfile.TemporaryDirectory(prefix="renew-client-cert-") as name:
        folder = Path(name)
        folder.chmod(0o777)
        yield folder
        folder.chmod(0o700)
