"""The search paths of a device in a folder."""

import os
from pathlib import Path

from handler.device.configuration.toml_files import SotaConfig
from tests.privileges import NOBODY


class Tree:
    """The search paths of a device in a folder, as writable or not as a test wants them."""

    def __init__(self, root: Path):
        self.root = root
        self.paths = [root / "usr", root / "sota.toml", root / "etc"]
        for folder in (self.paths[0], self.paths[2]):
            folder.mkdir()
            folder.chmod(0o777)

    def write(self, name, text, mode=0o666):
        path = self.root / name
        path.write_bytes(text.encode())
        path.chmod(mode)
        if os.geteuid() == 0:
            os.chown(path, NOBODY, NOBODY)
        return path

    def load(self):
        return SotaConfig.load(self.paths)

    def content(self):
        return {path: path.read_bytes() for path in self.root.rglob("*") if path.is_file()}
