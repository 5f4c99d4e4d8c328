"""pkcs11-spy in front of a device's module: it writes down every call."""

import re
import tomllib
from pathlib import Path

(SPY,) = map(str, Path("/usr/lib").glob("*/pkcs11/pkcs11-spy.so"))


class Watched:
    """It, in front of the module that the device's configuration names, or of another one."""

    def __init__(self, device, module=None):
        configuration = device.folder / "usr/lib/sota/conf.d/40-hsm.toml"
        text = configuration.read_text()
        self._module = str(module or tomllib.loads(text)["p11"]["module"])
        self._log = device.folder / "spy.log"
        configuration.write_text(re.sub(r'module = ".*"', f'module = "{SPY}"', text))

    def environment(self):
        """Give what the program needs in its environment; what was written down before is forgotten."""
        self._log.unlink(missing_ok=True)
        return {"PKCS11SPY": self._module, "PKCS11SPY_OUTPUT": str(self._log)}

    @property
    def calls(self):
        """The functions of the module that the last process called, in order, from its list of functions."""
        names = re.findall(r"^\d+: (C_\w+)", self._log.read_text(errors="replace"), re.MULTILINE)
        return [name for name in names if name not in ("C_GetFunctionList", "C_GetInterface")]
