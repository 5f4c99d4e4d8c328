"""Attributes of objects, read together and without failing at what python-pkcs11 does not know.

Behind a TEE each call costs milliseconds. python-pkcs11 needs two calls for one attribute, and two for twenty that are
requested together (`get_attributes`, since 0.9), so an object is read as a whole, once.
"""

import contextlib
import struct
from collections.abc import Sequence
from typing import Any

import pkcs11
from pkcs11 import Attribute, KeyType, ObjectClass
from pkcs11 import exceptions as p11
from pkcs11.attributes import AttributeMapper

DESTROYABLE: Any = 0x172
"""CKA_DESTROYABLE, which has no name in python-pkcs11 0.9."""
WHOSE = (Attribute.CLASS, Attribute.ID, Attribute.LABEL, DESTROYABLE)
"""These decide whether an object is ours and may be destroyed."""
_KEY = (Attribute.KEY_TYPE, Attribute.EC_PARAMS)
ALLOWED = (Attribute.SIGN, Attribute.DERIVE, Attribute.SENSITIVE, Attribute.EXTRACTABLE)
OF_CLASS = {
    ObjectClass.CERTIFICATE: (*WHOSE, Attribute.VALUE),
    ObjectClass.PUBLIC_KEY: (*WHOSE, *_KEY, Attribute.EC_POINT),
    ObjectClass.PRIVATE_KEY: (*WHOSE, *_KEY, *ALLOWED),
    ObjectClass.SECRET_KEY: (*WHOSE, Attribute.KEY_TYPE, *ALLOWED),
}
_NOT_THERE = (p11.AttributeTypeInvalid, p11.AttributeSensitive, p11.FunctionFailed)

Values = dict[Attribute, Any]


class TolerantMapper(AttributeMapper):
    """Reads labels in any encoding, numbers of a vendor and those of another size; python-pkcs11's own raises there."""

    def __init__(self) -> None:
        super().__init__()
        # Some modules leave empty what they do not know.
        self.register_handler(DESTROYABLE, lambda value: bytes([value]), lambda value: not value or any(value))

    def unpack_attributes(self, key: pkcs11.Attribute, value: bytes) -> Any:  # noqa: ANN401 - whatever the attribute holds
        """Return an attribute's value in Python's terms."""
        try:
            return super().unpack_attributes(key, value)
        except UnicodeDecodeError:
            return value.decode("utf-8", "backslashreplace")
        except (ValueError, struct.error):
            return int.from_bytes(value, "little")


def read(item: Any, attributes: Sequence[Attribute] | None = None) -> Values:  # noqa: ANN401 - pkcs11 makes its classes as it runs
    """Read these attributes of an object, or all that matter of its class, in two calls; without those it has not.

    What every object of its class has, and some modules leave out of an answer about several, is asked for alone.
    """
    wanted = attributes or OF_CLASS.get(getattr(item, "object_class", ObjectClass.DATA), WHOSE)
    try:
        found: Values = item.get_attributes(wanted)
    except _NOT_THERE:
        found = {}
    needed = {Attribute.CLASS, Attribute.LABEL, Attribute.VALUE, Attribute.KEY_TYPE}
    if found.get(Attribute.CLASS) != ObjectClass.DATA:
        needed.add(Attribute.ID)
    if found.get(Attribute.KEY_TYPE, KeyType.EC) == KeyType.EC:
        needed |= {Attribute.EC_PARAMS, Attribute.EC_POINT}
    for each in needed.intersection(wanted).difference(found):
        with contextlib.suppress(*_NOT_THERE):
            found[each] = item[each]
    return found
