"""Reads a recipe as far as tests need it: texts, lists of words, functions. No BitBake."""

import re

from tests.simulators.device import REPOSITORY

LAYER = REPOSITORY / "packaging/yocto/meta-renew-client-cert"
DEVICE = {
    "prefix": "/usr",
    "bindir": "/usr/bin",
    "libdir": "/usr/lib64",
    "datadir": "/usr/share",
    "nonarch_libdir": "/usr/lib",
    "nonarch_base_libdir": "/usr/lib",
    "systemd_unitdir": "/usr/lib/systemd",
    "PYTHON_DIR": "python3.12",
    "PYTHON_SITEPACKAGES_DIR": "/usr/lib64/python3.12/site-packages",
    "S": str(REPOSITORY),
}
"""What an image with a merged /usr and multilib makes of BitBake's variables."""


class Recipe:
    """A recipe of the layer, its variables expanded for DEVICE."""

    def __init__(self, name: str, **variables: str) -> None:
        (self.path,) = LAYER.rglob(name)
        self._text = self.path.read_text().replace("\\\n", " ")
        self._known = DEVICE | {"PN": self.path.name.split("_")[0]} | variables
        for found in re.findall(r'^([A-Z_]+) = "(.*)"$', self._text, re.MULTILINE):
            self._known.setdefault(found[0], self._expanded(found[1]))

    def words(self, variable: str) -> list[str]:
        """Give what a list holds, appended or assigned."""
        (value,) = re.findall(rf'^{re.escape(variable)} =?\+?=?\+? "(.*)"$', self._text, re.MULTILINE)
        return self._expanded(value).split()

    def function(self, name: str) -> str:
        """Give the shell of a function, e.g. `do_install:append`."""
        (body,) = re.findall(rf"^{re.escape(name)}\(\) \{{\n(.*?)^}}", self._text, re.MULTILINE | re.DOTALL)
        return self._expanded(body)

    def _expanded(self, text: str) -> str:
        return re.sub(r"\$\{(\w+)\}", lambda found: self._known.get(found[1], found[0]), text)
