"""What libraries load and nothing here uses: loaded when it is first used, if ever.

A rotation has to fit beside everything else on a small device, and each of these costs it memory and time at its start.
Whoever does call one gets the real thing.
"""

import importlib
import sys
from collections.abc import Mapping, Sequence
from importlib.abc import Loader
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import LazyLoader
from types import ModuleType


class Lean:
    """Finds modules as others do, and has some of them loaded with less. For `sys.meta_path`.

    `later` names modules that are loaded by the first use of anything in them: of no use for one that others take names
    from when they import it, or that is imported in two places. `without` gives by module what is not loaded while that
    one is: it and what it imports get functions by the names that they ask for, which call the real ones. Of use only
    for what is called, and while there is one thread.
    """

    def __init__(self, *later: str, without: Mapping[str, Sequence[str]]) -> None:
        self._later = frozenset(later)
        self._without = without

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find one of the modules; None for any other."""
        if fullname not in self._later and fullname not in self._without:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            if fullname in self._later:
                spec.loader = LazyLoader(spec.loader)
            else:
                spec.loader = _Without(spec.loader, self._without[fullname])
        return spec


class _Without(Loader):
    """Loads a module while others are stood in for."""

    def __init__(self, loader: Loader, names: Sequence[str]) -> None:
        self._loader = loader
        self._names = names

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        absent = [name for name in self._names if name not in sys.modules]
        sys.modules.update({name: _StandIn(name) for name in absent})
        try:
            self._loader.exec_module(module)
        finally:
            for name in absent:
                sys.modules.pop(name, None)


class _StandIn(ModuleType):
    """Stands in for a module while another one takes names from it; what they name calls the real one, loaded then."""

    __version__ = "3.0.0"
    """Of charset_normalizer: requests looks at it while it is loaded."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):  # the import machinery's questions
            raise AttributeError(name)

        def real(*arguments: object, **named: object) -> object:
            if isinstance(sys.modules.get(self.__name__), _StandIn):  # asked while the module that does without loads
                del sys.modules[self.__name__]
            return getattr(importlib.import_module(self.__name__), name)(*arguments, **named)

        return real
