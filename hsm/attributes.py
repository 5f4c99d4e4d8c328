"""Attributes of other people's objects, read without failing at what python-pkcs11 does not know."""

from typing import Any

import pkcs11
from pkcs11.attributes import AttributeMapper


class TolerantMapper(AttributeMapper):
    """Reads vendor-defined numbers as plain integers and labels in any encoding.

    python-pkcs11's own raises ValueError out of a search that meets an object of a vendor's class.
    """

    def unpack_attributes(self, key: pkcs11.Attribute, value: bytes) -> Any:  # noqa: ANN401 - whatever the attribute holds
        """Give an attribute's value in Python's terms."""
        try:
            return super().unpack_attributes(key, value)
        except UnicodeDecodeError:
            return value.decode("utf-8", "backslashreplace")
        except ValueError:
            return int.from_bytes(value, "little")
