"""requests and pkcs7, loaded without what nothing here uses of them: 5 MB, and some 15 ms of each start.

- The guesser of character sets: whoever does ask requests to guess gets the real one, loaded then.
- importlib.metadata, which urllib3 asks for the version of an HTTP/2 library only when HTTP/2 is switched on.
- What pkcs7 writes S/MIME messages with; and idna, for host names that are not ASCII, which are refused here.
"""

import importlib
import sys
from types import ModuleType

from hsm.lean import LoadedWhenUsed


class _Later(ModuleType):
    """Stands in for a module while another one takes names from it; what they name asks the real one, loaded then."""

    __version__ = "3.0.0"
    """Of the guesser: requests looks at it while it is loaded."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):  # the import machinery's questions
            raise AttributeError(name)

        def real(*arguments: object, **named: object) -> object:
            return getattr(importlib.import_module(self.__name__), name)(*arguments, **named)

        return real


_absent = [name for name in ("charset_normalizer", "importlib.metadata") if name not in sys.modules]
sys.modules.update({name: _Later(name) for name in _absent})
_finder = LoadedWhenUsed("email.generator", "email.policy", "idna")
sys.meta_path.insert(0, _finder)

import requests as requests  # noqa: E402, PLC0414 - given on
from cryptography.hazmat.primitives.serialization import pkcs7 as pkcs7  # noqa: E402, PLC0414 - likewise
from requests.adapters import HTTPAdapter as HTTPAdapter  # noqa: E402, PLC0414 - likewise

sys.meta_path.remove(_finder)
for _name in _absent:
    del sys.modules[_name]
