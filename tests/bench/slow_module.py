"""A slow PKCS#11 module that counts calls: built from slow_module.c, placed in front of a device's real module."""

import functools
import struct
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).with_suffix(".c")
FUNCTIONS = 68
NAMES = {
    0: "C_Initialize",
    1: "C_Finalize",
    2: "C_GetInfo",
    4: "C_GetSlotList",
    5: "C_GetSlotInfo",
    6: "C_GetTokenInfo",
    7: "C_GetMechanismList",
    12: "C_OpenSession",
    13: "C_CloseSession",
    18: "C_Login",
    19: "C_Logout",
    20: "C_CreateObject",
    22: "C_DestroyObject",
    24: "C_GetAttributeValue",
    26: "C_FindObjectsInit",
    27: "C_FindObjects",
    28: "C_FindObjectsFinal",
    42: "C_SignInit",
    43: "C_Sign",
    59: "C_GenerateKeyPair",
    62: "C_DeriveKey",
}
"""By their place in CK_FUNCTION_LIST (PKCS#11 v2.40 §3.4), as far as anybody here calls them."""


@dataclass(frozen=True)
class Speed:
    """Milliseconds for a call, and for an operation with a key besides."""

    call: float = 0.0
    operation: float = 0.0

    def __str__(self) -> str:
        return f"{self.call:g} ms a call, {self.operation:g} ms an operation"


@dataclass(frozen=True)
class Counted:
    """The calls by name, and how many of them were operations with a key."""

    calls: Counter[str]
    operations: int

    @property
    def total(self) -> int:
        """All calls, but those that find the token among others: tests share one directory of tokens."""
        return self.calls.total() - 2 * (self.calls["C_GetTokenInfo"] - 2)


@functools.cache
def _library():
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "slow_module.so")
        command = ["cc", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", path, SOURCE]
        subprocess.run(command, check=True, capture_output=True)
        return path.read_bytes()


class SlowModule:
    """The module, built in `folder`, in the place of that device's."""

    def __init__(self, device, folder, speed=Speed()):
        self._count = Path(folder, "calls by function")
        self._real = device.token.module
        self._speed = speed
        library = Path(folder, "slow_module.so")
        library.write_bytes(_library())
        configuration = device.folder / "usr/lib/sota/conf.d/40-hsm.toml"
        configuration.write_text(configuration.read_text().replace(self._real, str(library)))

    def environment(self):
        """Give what the program needs in its environment; counts from zero."""
        self._count.unlink(missing_ok=True)
        return {
            "SLOW_MODULE": self._real,
            "SLOW_COUNT": str(self._count),
            "SLOW_CALL": f"{self._speed.call * 1000:.0f}",
            "SLOW_OPERATION": f"{self._speed.operation * 1000:.0f}",
        }

    @property
    def counted(self):
        """What was called since `environment`."""
        *each, operations = struct.unpack(f"{FUNCTIONS + 1}L", self._count.read_bytes())
        calls = Counter({NAMES.get(place, f"function {place}"): count for place, count in enumerate(each) if count})
        return Counted(calls, operations)
