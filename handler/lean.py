"""requests, loaded without its guesser of character sets: 4 MB and 8 ms for texts that nothing here reads."""

import sys
from types import ModuleType

_GUESSER = "charset_normalizer"
_absent = _GUESSER not in sys.modules
if _absent:
    sys.modules[_GUESSER] = ModuleType(_GUESSER)
    sys.modules[_GUESSER].__dict__["__version__"] = "3.0.0"  # requests looks at it, and warns where there is none

import requests as requests  # noqa: E402, PLC0414 - given on
from requests.adapters import HTTPAdapter as HTTPAdapter  # noqa: E402, PLC0414 - likewise

if _absent:
    del sys.modules[_GUESSER]  # whoever else asks gets the real one
