"""A device that boots: a real systemd as PID 1 of its own namespaces, on the root file system of this process.

Power is cut by killing it: what it had in memory (/run) is gone, what it wrote to disk is there at the next boot.
"""

import contextlib
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

CGROUPS = ("/sys/fs/cgroup/unified", "/sys/fs/cgroup")
BOOT_SECONDS = 60.0
# What a container has no use for, and what would change the machine below.
MASKED = (
    "systemd-udevd.service",
    "systemd-udev-trigger.service",
    "systemd-udev-settle.service",
    "systemd-udevd-kernel.socket",
    "systemd-udevd-control.socket",
    "systemd-sysctl.service",
    "systemd-modules-load.service",
    "systemd-networkd.service",
    "systemd-resolved.service",
    "systemd-timesyncd.service",
    "systemd-binfmt.service",
    "systemd-random-seed.service",
    "systemd-update-utmp.service",
    "systemd-remount-fs.service",
    "systemd-logind.service",
    "getty.target",
    "networking.service",
    "tmp.mount",
    "proc-sys-fs-binfmt_misc.automount",
    "dev-hugepages.mount",
    "dev-mqueue.mount",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "sys-kernel-config.mount",
    "sys-fs-fuse-connections.mount",
)
# $1: its own cgroup. /run is mounted already, and seen from outside.
INIT = """\
echo $$ > "$1/cgroup.procs"
exec unshare --cgroup sh -euc '
mount -t proc proc /proc
mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys
mount --make-private /sys
umount -R -l /sys
mount -t sysfs -o ro sysfs /sys
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir /run/dev
mount -t tmpfs -o mode=0755 tmpfs /run/dev
mkdir /run/dev/pts /run/dev/shm
for node in null zero full random urandom tty; do
    touch /run/dev/$node
    mount --bind /dev/$node /run/dev/$node
done
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts /run/dev/pts
ln -s pts/ptmx /run/dev/ptmx
ln -s /proc/self/fd /run/dev/fd
umount -R -l /dev
mount --move /run/dev /dev
mount -t tmpfs tmpfs /tmp
exec env -i container=tests PATH=/usr/sbin:/usr/bin:/sbin:/bin TERM=dumb /lib/systemd/systemd --unit=multi-user.target \
    --log-target=journal-or-kmsg --show-status=no
'
"""


class Machine:
    """Use as a context manager: its power is cut at the end."""

    def __init__(self) -> None:
        parent = next(path for path in CGROUPS if (Path(path) / "cgroup.procs").exists())
        self._cgroup = Path(tempfile.mkdtemp(prefix="renew-client-cert-", dir=parent))
        self._outside: subprocess.Popen[bytes] | None = None
        self._pid = 0

    def __enter__(self):
        return self

    def __exit__(self, *_error: object) -> None:
        self.cut_power()
        for folder, _, _ in os.walk(self._cgroup, topdown=False):
            Path(folder).rmdir()

    @contextlib.contextmanager
    def running(self) -> Iterator["Machine"]:
        """Boot, and cut the power at the end."""
        self.boot()
        try:
            yield self
        finally:
            self.cut_power()

    def boot(self, secrets: Sequence[tuple[str, str]] = ()) -> None:
        """Boot, and wait until everything that is started at boot has started."""
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=0755", "tmpfs", "/run"], check=True)
        Path("/run/secrets").mkdir()
        # Tells those who listen to udev that udevd runs (libudev asks for this file).
        Path("/run/udev").mkdir()
        Path("/run/udev/control").touch()
        for name, text in secrets:
            Path("/run/secrets", name).write_text(text)
        namespaces = ["unshare", "--pid", "--fork", "--kill-child", "--mount", "--uts", "--ipc"]
        command = [*namespaces, "sh", "-euc", INIT, "sh", str(self._cgroup)]
        self._outside = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
        children = Path(f"/proc/{self._outside.pid}/task/{self._outside.pid}/children")
        self.until(lambda: self._alive() and children.read_text().strip())
        self._pid = int(children.read_text())
        self.until(lambda: self._alive() and Path("/run/systemd/private").exists(), BOOT_SECONDS)
        self.until(lambda: self.state() in {"running", "degraded"}, BOOT_SECONDS)

    def cut_power(self) -> None:
        """End everything at once. Can be called again."""
        if self._outside is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)
        self._outside.communicate()
        self._outside = None
        self.until(lambda: "populated 0" in (self._cgroup / "cgroup.events").read_text())
        subprocess.run(["umount", "-R", "-l", "/run"], check=True)

    def _alive(self) -> bool:
        assert self._outside.poll() is None, f"systemd has ended: {self._outside.stderr.read().decode()}"
        return True

    # What is done on it

    def run(self, *command: str, check: bool = True) -> str:
        """Run a command on it, as root; give what it says."""
        done = subprocess.run(
            self.command(*command), capture_output=True, text=True, check=False, timeout=90, stdin=subprocess.DEVNULL
        )
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def command(self, *command: str) -> list[str]:
        """Give the command line that runs a command on it."""
        inside = ["nsenter", "--target", str(self._pid), "--mount", "--pid", "--cgroup", "--uts", "--ipc"]
        return [*inside, *command]

    def systemctl(self, *arguments: str) -> str:
        return self.run("systemctl", *arguments)

    def state(self) -> str:
        return self.run("systemctl", "is-system-running", check=False)

    def show(self, unit: str, name: str) -> str:
        """Give a property of a unit."""
        return self.systemctl("show", f"--property={name}", "--value", unit)

    def journal(self, unit: str | None = None) -> str:
        """Give what was logged since the boot."""
        chosen = [] if unit is None else [f"--unit={unit}"]
        return self.run("journalctl", "--boot", "--no-pager", "--output=cat", *chosen)

    def until(self, condition, seconds: float = 30.0) -> None:
        """Wait until the condition holds."""
        end, pause = time.monotonic() + seconds, threading.Event()
        while not condition():
            assert time.monotonic() < end, self._story()
            pause.wait(0.05)

    def _story(self) -> str:
        if not self._pid:
            return "it does not happen"
        return "it does not happen\n" + self.run("systemctl", "--failed", check=False) + "\n" + self.journal()[-6000:]
