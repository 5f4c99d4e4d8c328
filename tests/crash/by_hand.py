"""A rotation that fioconfig did not call for, killed where systemd runs: fioconfig, which it stopped, has to run again.

The program runs in a mount namespace in which systemd seems to have been booted (sd_booted(3) asks for a folder); the
device's systemctl is one that keeps whether fioconfig runs. The daemon's call alone has to start it again.
"""

import contextlib

IN_NAMESPACE = (
    "unshare", "--mount", "sh", "-c",
    'mount -t tmpfs none /run && mkdir -p /run/systemd/system && exec "$@"', "sh",
)  # fmt: skip
SYSTEMCTL = """#!/bin/sh
state="{folder}/fioconfig.state"
case "$1 $*" in
show*fioconfig.service) read -r said < "$state"; echo "$said";;
show*) echo inactive;;
stop*fioconfig.service) echo inactive > "$state";;
start*fioconfig.service) echo active > "$state";;
esac
"""


@contextlib.contextmanager
def fioconfig_running(device):
    """Have fioconfig run on the device; gives a function that tells whether it does."""
    state = device.folder / "fioconfig.state"
    state.write_text("active\n")
    systemctl = device.folder / "bin/systemctl"
    before = systemctl.read_text()
    systemctl.write_text(SYSTEMCTL.format(folder=device.folder))
    yield lambda: state.read_text() == "active\n"
    systemctl.write_text(before)
