"""What a module says of an object, however it puts it."""

import pytest
from pkcs11 import Attribute, KeyType, ObjectClass

from hsm.attributes import DESTROYABLE, TolerantMapper


@pytest.mark.parametrize(
    ("attribute", "value", "meaning"),
    [
        (Attribute.LABEL, b"tls", "tls"),
        (Attribute.LABEL, b"\xfcbung", "\\xfcbung"),
        (Attribute.CLASS, bytes([2, 0, 0, 0, 0, 0, 0, 0]), ObjectClass.PUBLIC_KEY),
        (Attribute.CLASS, bytes([1, 0, 0, 0x80, 0, 0, 0, 0]), 0x80000001),
        (Attribute.KEY_TYPE, bytes([3, 0, 0, 0]), KeyType.EC),
        (Attribute.KEY_TYPE, b"", 0),
        (Attribute.SIGN, b"\1", True),
        (Attribute.SIGN, bytes([1, 0, 0, 0]), True),
        (Attribute.SIGN, bytes(8), False),
        (DESTROYABLE, b"\0", False),
        (DESTROYABLE, bytes(8), False),
        (DESTROYABLE, b"\1", True),
        (DESTROYABLE, b"", True),
    ],
)
def test_a_value_of_any_size_is_read(attribute, value, meaning):
    assert TolerantMapper().unpack_attributes(attribute, value) == meaning
