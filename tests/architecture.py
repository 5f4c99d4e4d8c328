"""Rotates a device whose program runs in a root folder of another architecture: called by tests/architecture.sh.

    python -m tests.architecture ROOT QEMU

ROOT is that folder, QEMU the emulator in it. The device's own files lie on this machine and are mounted there; so are
those of its token, which the SoftHSM of the other architecture opens. Ends with status 1 if anything is not as it
should be.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from handler.exit_status import DONE, SWITCHED
from tests.invariants import broken_invariants
from tests.simulators.factory import running_factory

ROTATIONS = 3
TOKEN = "SOFTHSM2_CONF"
# $1: folders that are mounted where they are here; then the command.
IN_ROOT = """
mount -t proc proc "$0/proc"
for folder in $1; do mkdir -p "$0$folder"; mount --bind "$folder" "$0$folder"; done
shift
exec chroot "$0" "$@"
"""
PYTHON = ("/usr/bin/python3", "-I")
PROGRAM = "/usr/share/fioconfig/handlers/renew-client-cert"


def main(root: str, qemu: str) -> int:
    """Rotate in both key modes, and say what came of it."""
    failed = False
    for keys in ("file", "token"):
        with tempfile.TemporaryDirectory() as folder, running_factory(Path(folder) / "device", keys) as factory:

            def run(*arguments, factory=factory, folder=folder):
                environment = factory.device.environment() | {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
                folders = [folder, *(str(Path(value).parent) for name, value in environment.items() if name == TOKEN)]
                command = [
                    "unshare",
                    "--mount",
                    "sh",
                    "-euc",
                    IN_ROOT,
                    root,
                    " ".join(folders),
                    qemu,
                    *PYTHON,
                    *arguments,
                ]
                return subprocess.run(
                    ["env", "-i", *(f"{name}={value}" for name, value in environment.items()), *command],
                    capture_output=True,
                    text=True,
                    check=False,
                )

            machine = run("-c", "import platform, struct; print(platform.machine(), struct.calcsize('P') * 8, 'bits')")
            print(f"keys: {keys}; {machine.stdout.strip()}{machine.stderr.strip()}")
            for number in range(1, ROTATIONS + 1):
                rotation_id = f"certs-{keys}-{number}"
                factory.device.write_request(rotation_id)
                called, resumed = run(PROGRAM), run(PROGRAM, "resume")
                broken = broken_invariants(factory, rotation_id, completed=True)
                good = (called.returncode, resumed.returncode, broken) == (SWITCHED, DONE, [])
                failed |= not good
                print(
                    f"  {rotation_id}: {'ok' if good else 'FAILED'}, status {called.returncode}, {resumed.returncode}"
                )
                if not good:
                    print("\n".join([*broken, called.stdout, called.stderr, resumed.stderr]))
    return failed


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
