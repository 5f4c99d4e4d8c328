"""Modules that a library loads and nothing here uses: loaded when they are first used, if ever.

A rotation has to fit beside everything else on a small device, and each of these costs it memory and time at its start.
"""

from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import LazyLoader
from types import ModuleType


class LoadedWhenUsed:
    """Finds the modules of these names as others do, and has them loaded by the first use of anything in them.

    For `sys.meta_path`. Of no use for a module of which others take names when they import it.
    """

    def __init__(self, *names: str) -> None:
        self._names = frozenset(names)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find one of the modules; None for any other."""
        spec = PathFinder.find_spec(fullname, path, target) if fullname in self._names else None
        if spec is not None and spec.loader is not None:
            spec.loader = LazyLoader(spec.loader)
        return spec
