"""Tries to get out of the sandbox of a service: run in a service's place, by the system's Python, alone.

Writes what came of each attempt to the file that it is given: null where it worked, or why it did not.
"""

import ctypes
import errno
import json
import mmap
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

LIBC = ctypes.CDLL(None, use_errno=True)
NEW_USER_NAMESPACE, NEW_MOUNT_NAMESPACE = 0x10000000, 0x00020000
PTRACE_ATTACH = 16
MARK = "written-by-the-probe"


def checked(result):
    if result == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def written(path):
    Path(path).write_text(MARK)


def changed(path):
    """Add a line to a file that is there."""
    with Path(path).open("a") as file:
        file.write(f"# {MARK}\n")


def as_other_user():
    os.setresuid(1000, 1000, 1000)


def set_user_id_file():
    path = Path("/var/sota/probe-shell")
    path.touch()
    path.chmod(0o4755)


def file_of_another():
    path = Path("/var/sota/probe-file")
    path.touch()
    os.chown(path, 1000, 1000)


def device():
    path = "/var/sota/probe-device"
    os.mknod(path, 0o600 | 0o020000, os.makedev(1, 1))  # /dev/mem
    Path(path).read_bytes()


def home():
    if not any(Path("/root").iterdir()):
        raise OSError(errno.ENOENT, "it is empty")


def hidden_process():
    """Read what process 1 has in its environment."""
    Path("/proc/1/environ").read_bytes()


def transient_unit():
    command = ["systemd-run", "--quiet", "--wait", "touch", f"/usr/{MARK}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    if done.returncode:
        raise OSError(done.returncode, done.stderr.strip())


ATTEMPTS = {
    "write /usr": lambda: written(f"/usr/{MARK}-itself"),
    "write /etc": lambda: written(f"/etc/{MARK}"),
    "write /var/lib": lambda: written(f"/var/lib/{MARK}"),
    "read /root": home,
    "write a kernel setting": lambda: written("/proc/sys/kernel/core_pattern"),
    "mount a file system": lambda: checked(LIBC.mount(b"none", b"/var/sota", b"tmpfs", 0, None)),
    "make a user namespace": lambda: checked(LIBC.unshare(NEW_USER_NAMESPACE)),
    "make a mount namespace": lambda: checked(LIBC.unshare(NEW_MOUNT_NAMESPACE)),
    "load a kernel module": lambda: checked(LIBC.syscall(175 if sys.maxsize > 2**32 else 128, b"", 0, b"")),
    "change root": lambda: os.chroot("/var/sota"),
    "become another user": as_other_user,
    "make a set-user-ID file": set_user_id_file,
    "give a file to another user": file_of_another,
    "open another device": device,
    "look into another process": hidden_process,
    "trace another process": lambda: checked(LIBC.ptrace(PTRACE_ATTACH, 1, None, None)),
    "open a raw socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1).close(),
    "open a packet socket": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close(),
    "set the clock": lambda: time.clock_settime(time.CLOCK_REALTIME, time.time()),
    "make memory that is written and run": lambda: mmap.mmap(
        -1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
    ).close(),
    "restart the device": lambda: checked(LIBC.reboot(0)),
    "change what root's services are configured to run": lambda: changed("/var/sota/sota.toml"),
    "signal another of root's processes": lambda: os.kill(1, 0),
    "start a unit of its own through systemd": transient_unit,
}


def main():
    """Try everything; each attempt in its own process, so that none helps another."""
    results = {}
    for name, attempt in ATTEMPTS.items():
        ours, theirs = os.pipe()
        if os.fork() == 0:
            try:
                attempt()
                said = None
            except OSError as error:
                said = error.strerror
            os.write(theirs, json.dumps(said).encode())
            os._exit(0)
        os.close(theirs)
        with os.fdopen(ours, "rb") as answer:
            # One that a filter of system calls killed has said nothing.
            results[name] = json.loads(answer.read() or b'"killed"')
        os.wait()
    Path(sys.argv[1]).write_text(json.dumps(results))


if __name__ == "__main__":
    main()
