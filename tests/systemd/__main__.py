"""`python -m tests.systemd PACKAGE.deb [pytest's arguments]`: runs the cases in its own root file system.

That is an overlay of this machine's root whose changes are kept in memory, in a mount and a network namespace: what the
tests install, write and listen on is gone with the last process. Where this is not permitted, it says so and fails.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.simulators.device import REPOSITORY

SYSTEMD = "/lib/systemd/systemd"
CASES = ("tests/systemd/cases.py", "tests/systemd/sandbox.py", "tests/systemd/package.py")
# $1: an empty folder, $2: the package; then folders that are to be seen inside, "--", and pytest's command.
ENTER = """\
root=$1/root package=$2 here=$PWD; shift 2
mount -t tmpfs -o mode=0755 tmpfs "${root%/root}"
mkdir "$root" "${root%/root}/upper" "${root%/root}/work"
mount -t overlay -o "lowerdir=/,upperdir=${root%/root}/upper,workdir=${root%/root}/work" overlay "$root"
for folder in /proc /sys /dev; do mount --rbind "$folder" "$root$folder"; done
while [ "$1" != -- ]; do mkdir -p "$root$1"; mount --rbind "$1" "$root$1"; shift; done
shift
mount -t tmpfs tmpfs "$root/run"
mkdir -p "$root/old" && cd "$root" && pivot_root . old && umount -l /old
ip link set lo up
cd "$here"
mkdir -p /var/lib/softhsm
export TMPDIR=/var/lib/softhsm  # tokens that services may write
export PACKAGE=/var/cache/renew-client-cert.deb  # as in conftest; /tmp is the machine's own
cp "$package" $PACKAGE
dpkg --install --force-depends $PACKAGE >/dev/null 2>&1
exec "$@"
"""


def main() -> int:
    """Enter the namespaces and run the cases; give pytest's exit status."""
    package, *arguments = sys.argv[1:]
    if os.geteuid() != 0 or not Path(SYSTEMD).exists():
        print(f"test-systemd: expected root, and {SYSTEMD}; run it as root on a Debian with systemd", file=sys.stderr)
        return 1
    unshare = ["unshare", "--mount", "--net", "--propagation", "private"]
    permitted = subprocess.run([*unshare, "true"], capture_output=True, text=True, check=False)
    if permitted.returncode:
        print(f"test-systemd: namespaces are not permitted here: {permitted.stderr.strip()}", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="systemd-") as folder:
        command = [sys.executable, "-m", "pytest", "-p", "no:xdist", *CASES, *arguments]
        enter = ["sh", "-euc", ENTER, "sh", folder, str(Path(package).resolve()), *_elsewhere(), "--", *command]
        return subprocess.run([*unshare, *enter], cwd=REPOSITORY, check=False).returncode


def _elsewhere() -> list[str]:
    """Give the folders that pytest needs and that are not on the root file system."""
    device = Path("/").stat().st_dev
    needed = {REPOSITORY, Path(sys.prefix), Path(sys.base_prefix)}
    return sorted(str(path) for path in needed if path.stat().st_dev != device)


if __name__ == "__main__":
    sys.exit(main())
