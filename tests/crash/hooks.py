"""A hook in /etc that the program finds in a mount namespace only, and what it was told last.

It appends a line to a file beside the storage folder, which a cut leaves as it is.
"""

import atexit
import functools
import os
import shutil
import tempfile
from pathlib import Path

HOOK = """#!/bin/sh
echo "$RESULT $OLD_KEY $NEW_KEY" >> "${STORAGE_DIR%/*}/told"
"""


@functools.cache
def in_namespace():
    """Give a command that runs what follows it where /etc has the hook; what it needs ends with this process."""
    etc = Path(tempfile.mkdtemp(prefix="crash-etc-"))
    etc.chmod(0o755)
    atexit.register(shutil.rmtree, etc)
    shutil.copytree("/etc", etc, symlinks=True, dirs_exist_ok=True)
    folder = etc / "renew-client-cert/hooks.d"
    folder.mkdir(mode=0o755, parents=True)
    (folder / "50-told").write_text(HOOK)
    (folder / "50-told").chmod(0o755)
    rights = () if os.geteuid() == 0 else ("--user", "--map-root-user")
    return ("unshare", *rights, "--mount", "sh", "-c", f'mount --bind {etc} /etc && exec "$@"', "sh")


def told(device):
    """Give what hooks were told, a line each."""
    path = device.storage.parent / "told"
    return path.read_text().splitlines() if path.exists() else []


def put_back(device, lines):
    """Have them been told just that."""
    (device.storage.parent / "told").write_text("".join(f"{line}\n" for line in lines))


def broken(factory, *, completed):
    """List what does not hold: they know last which identity is in use, where another one was.

    A fault may hit the hook itself, or its folder; then the gateway was told that.
    """
    device = factory.device
    if any("hooks.d" in event["event"].get("details", "") for event in factory.gateway.events):
        return []
    lines = told(device)
    if not lines:
        return ["no hook has run"]
    result, old, new = lines[-1].split()
    if (result, new if completed else old) != (
        "success" if completed else "rolled-back",
        device.current_identity().key,
    ):
        return [f"hooks were told last: {lines[-1]}; in use is {device.current_identity().key}"]
    return []
