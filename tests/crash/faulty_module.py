"""A PKCS#11 module of which one call fails: built from faulty_module.c, put in front of a device's real one."""

import functools
import subprocess
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_suffix(".c")
RETURN_VALUES = {
    "CKR_GENERAL_ERROR": 0x05,
    "CKR_DEVICE_ERROR": 0x30,
    "CKR_DEVICE_MEMORY": 0x31,
    "CKR_SESSION_HANDLE_INVALID": 0xB3,
}


@functools.cache
def _library():
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "faulty_module.so")
        command = ["cc", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", path, SOURCE]
        subprocess.run(command, check=True, capture_output=True)
        return path.read_bytes()


class FaultyModule:
    """The module, built in `folder`, in the place of that device's."""

    def __init__(self, device, folder):
        self._count = Path(folder, "calls")
        self._real = device.token.module
        library = Path(folder, "faulty_module.so")
        library.write_bytes(_library())
        configuration = device.folder / "usr/lib/sota/conf.d/40-hsm.toml"
        configuration.write_text(configuration.read_text().replace(self._real, str(library)))

    def environment(self, call=None, return_value=None):
        """Give what the program needs in its environment, to let that call (from 1) fail."""
        fault = {} if call is None else {"FAULTY_CALL": str(call), "FAULTY_RV": str(return_value)}
        return {"FAULTY_MODULE": self._real, "FAULTY_COUNT": str(self._count), **fault}

    @property
    def calls(self):
        """The number of calls that the last process made."""
        return int(self._count.read_text())
