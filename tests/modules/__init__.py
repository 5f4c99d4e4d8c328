"""PKCS#11 modules in front of a device's own: pkcs11-spy, and those that are built from the C sources here.

Each takes the place of the module that the device's configuration names, so that several stand in a row; a call of the
program gets the environment of each.
"""

import functools
import re
import struct
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

(SPY,) = map(str, Path("/usr/lib").glob("*/pkcs11/pkcs11-spy.so"))
RETURN_VALUES = {
    "CKR_GENERAL_ERROR": 0x05,
    "CKR_DEVICE_ERROR": 0x30,
    "CKR_DEVICE_MEMORY": 0x31,
    "CKR_SESSION_HANDLE_INVALID": 0xB3,
}
COUNT_LOW, FINAL_TRY, LOCKED = 0x10000, 0x20000, 0x40000
"""CK_TOKEN_INFO.flags (PKCS#11 v2.40 §3.2)."""
FUNCTIONS = 68
C_CREATE_OBJECT, C_GENERATE_KEY_PAIR = 20, 59
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
    C_CREATE_OBJECT: "C_CreateObject",
    22: "C_DestroyObject",
    24: "C_GetAttributeValue",
    26: "C_FindObjectsInit",
    27: "C_FindObjects",
    28: "C_FindObjectsFinal",
    42: "C_SignInit",
    43: "C_Sign",
    C_GENERATE_KEY_PAIR: "C_GenerateKeyPair",
    62: "C_DeriveKey",
}
"""By their place in CK_FUNCTION_LIST (PKCS#11 v2.40 §3.4), as far as anybody here calls them."""


@functools.cache
def _built(source):
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder, "library.so")
        options = ["-shared", "-fPIC", "-O1", "-Wall", "-Werror"]
        subprocess.run(["cc", *options, "-o", library, source], check=True, capture_output=True)
        return library.read_bytes()


class Front:
    """A module that is built in `folder` from the source of that name."""

    def __init__(self, name, device, folder):
        self.folder = Path(folder)
        library = self.folder / f"{name}.so"
        library.write_bytes(_built(Path(__file__).with_name(f"{name}.c")))
        self.real, device.module = device.module, str(library)


class FaultyModule(Front):
    """A module of which one call fails."""

    def __init__(self, device, folder):
        super().__init__("faulty", device, folder)
        self._count = self.folder / "calls"

    def environment(self, call=None, return_value=None, function=None):
        """Give what the program needs in its environment, to let that call (from 1) fail: of all, or of a function."""
        fault = {} if call is None else {"FAULTY_CALL": str(call), "FAULTY_RV": str(return_value)}
        only = {} if function is None else {"FAULTY_FUNCTION": str(function)}
        return {"FAULTY_MODULE": self.real, "FAULTY_COUNT": str(self._count), **fault, **only}

    @property
    def calls(self):
        """The number of calls that the last process made."""
        return int(self._count.read_text())


class FlaggedToken(Front):
    """A module that adds flags to what the token says of itself, and counts logins."""

    def __init__(self, device, folder):
        super().__init__("flagged", device, folder)
        self._log = self.folder / "logins"

    def environment(self, flags=0):
        """Give what the program needs in its environment."""
        return {"TOKEN_MODULE": self.real, "TOKEN_LOGINS": str(self._log), "TOKEN_FLAGS": str(flags)}

    @property
    def logins(self):
        """How often anybody tried a PIN through this module."""
        return len(self._log.read_text().splitlines()) if self._log.exists() else 0


class StrictToken(Front):
    """A module that refuses templates, as those of some secure elements do (ATECC)."""

    def __init__(self, device, folder):
        super().__init__("strict", device, folder)

    def environment(self, *, always=False):
        """Give what the program needs in its environment; `always` refuses every template."""
        return {"STRICT_MODULE": self.real, **({"STRICT_ALWAYS": "1"} if always else {})}


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


class SlowModule(Front):
    """A slow module that counts calls."""

    def __init__(self, device, folder, speed=Speed()):
        super().__init__("slow", device, folder)
        self._count = self.folder / "calls by function"
        self._speed = speed

    def environment(self):
        """Give what the program needs in its environment; counts from zero."""
        self._count.unlink(missing_ok=True)
        return {
            "SLOW_MODULE": self.real,
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


class Watched:
    """pkcs11-spy, which writes down every call. It cannot stand in front of itself: then it is in its own place."""

    def __init__(self, device):
        self._module = device.token.plain_module if device.module == SPY else device.module
        self._log = device.folder / "spy.log"
        device.module = SPY

    def environment(self):
        """Give what the program needs in its environment; what was written down before is forgotten."""
        self._log.unlink(missing_ok=True)
        return {"PKCS11SPY": self._module, "PKCS11SPY_OUTPUT": str(self._log)}

    @property
    def every_call(self):
        """The functions of the module that the last process called, in order."""
        return re.findall(r"^\d+: (C_\w+)$", self._log.read_text(errors="replace"), re.MULTILINE)

    @property
    def calls(self):
        """Those of its list of functions."""
        return [name for name in self.every_call if name not in ("C_GetFunctionList", "C_GetInterface")]
