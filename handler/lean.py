"""requests, loaded without its guesser of character sets: 4 MB and 8 ms for texts that nothing here reads.

Whoever does ask requests to guess gets the real one, loaded then.
"""

import importlib
import sys
from types import ModuleType

_NAME = "charset_normalizer"


class _Guesser(ModuleType):
    """Stands in for the guesser while requests is loaded, which looks at its version."""

    __version__ = "3.0.0"

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):  # the import machinery's questions
            raise AttributeError(name)
        return getattr(importlib.import_module(_NAME), name)


_absent = _NAME not in sys.modules
if _absent:
    sys.modules[_NAME] = _Guesser(_NAME)

import requests as requests  # noqa: E402, PLC0414 - given on
from requests.adapters import HTTPAdapter as HTTPAdapter  # noqa: E402, PLC0414 - likewise

if _absent:
    del sys.modules[_NAME]
