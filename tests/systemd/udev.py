"""What systemd-udevd tells its listeners when it has dealt with a device (libudev's monitor, systemd's netlink)."""

import socket
import struct

MAGIC = 0xFEEDCAFE
UEVENTS = 15
"""NETLINK_KOBJECT_UEVENT, which the socket module does not name."""
UDEV_GROUP = 2


def announce(subsystem: str, path: str, action: str = "add") -> None:
    """Say that a device (its path below /sys) appeared, as udevd does. Wants CAP_NET_ADMIN."""
    properties = {"ACTION": action, "DEVPATH": path, "SUBSYSTEM": subsystem, "SEQNUM": "1", "USEC_INITIALIZED": "1"}
    text = b"".join(f"{name}={value}".encode() + b"\0" for name, value in properties.items())
    # systemd 252, src/libsystemd/sd-device/device-monitor.c: hashes are for the listeners' filters, in network order.
    size = 40
    native = struct.pack("=8sIIII", b"libudev\0", socket.htonl(MAGIC), size, size, len(text))
    header = native + struct.pack(">IIII", _murmur(subsystem.encode()), 0, 0, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, UEVENTS) as link:
        link.bind((0, 0))
        link.sendto(header + text, (0, UDEV_GROUP))


def _murmur(data: bytes) -> int:
    """Give MurmurHash2 with seed 0."""
    factor, mask = 0x5BD1E995, 0xFFFFFFFF
    value = len(data)
    whole = len(data) // 4 * 4
    for (each,) in struct.iter_unpack("<I", data[:whole]):
        part = each * factor & mask
        part = (part ^ part >> 24) * factor & mask
        value = value * factor & mask ^ part
    rest = data[whole:]
    if rest:
        value = (value ^ int.from_bytes(rest, "little")) * factor & mask
    value = (value ^ value >> 13) * factor & mask
    return value ^ value >> 15
