"""Names: compared by value, shown safely."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handler.crypto.names import MAX_SHOWN, alternative_names, common_name, same, shown
from hsm import der
from tests.odd_certificates import name, seq, tlv

UTF8, NUMERIC, PRINTABLE, T61, IA5, VISIBLE, UNIVERSAL, BMP = 12, 18, 19, 20, 22, 26, 28, 30
CN, O, OU, C = "2.5.4.3", "2.5.4.10", "2.5.4.11", "2.5.4.6"  # noqa: E741
MUELLER = "Müller GmbH"
MODEL = name((O, UTF8, MUELLER.encode()), (CN, UTF8, b"dev-1"))


def two_valued(*attributes):
    return seq(tlv(0x31, *(seq(der.oid(oid), tlv(tag, value)) for oid, tag, value in attributes)))


EQUAL = {
    "T61String": (MODEL, name((O, T61, MUELLER.encode("latin-1")), (CN, PRINTABLE, b"dev-1"))),
    "BMPString": (MODEL, name((O, BMP, MUELLER.encode("utf-16-be")), (CN, IA5, b"dev-1"))),
    "UniversalString": (MODEL, name((O, UNIVERSAL, MUELLER.encode("utf-32-be")), (CN, VISIBLE, b"dev-1"))),
    "case": (MODEL, name((O, UTF8, "MÜLLER gmbh".encode()), (CN, UTF8, b"DEV-1"))),
    "white space": (MODEL, name((O, UTF8, "  Müller   GmbH ".encode()), (CN, UTF8, b"dev-1"))),
    "composed and decomposed": (MODEL, name((O, UTF8, "Mu\u0308ller GmbH".encode()), (CN, UTF8, b"dev-1"))),
    "long lengths": (name((CN, UTF8, b"a")), b"\x30\x81\x0c" + name((CN, UTF8, b"a"))[2:]),
    "RDN in another order": (
        two_valued((CN, UTF8, b"a"), (OU, UTF8, b"b")),
        two_valued((OU, PRINTABLE, b"b"), (CN, PRINTABLE, b"a")),
    ),
    "digits": (name((CN, NUMERIC, b"12")), name((CN, UTF8, b"12"))),
    "the same unreadable bytes": (name((CN, UTF8, b"\xff")), name((CN, UTF8, b"\xff"))),
    "nothing": (name(), name()),
}
DIFFERENT = {
    "a letter": (MODEL, name((O, UTF8, MUELLER.encode()), (CN, UTF8, b"dev-2"))),
    "another attribute": (name((CN, UTF8, b"a")), name((OU, UTF8, b"a"))),
    "the order of RDNs": (MODEL, name((CN, UTF8, b"dev-1"), (O, UTF8, MUELLER.encode()))),
    "one more": (MODEL, name((O, UTF8, MUELLER.encode()), (CN, UTF8, b"dev-1"), (CN, UTF8, b"dev-1"))),
    "one RDN or two": (two_valued((CN, UTF8, b"a"), (OU, UTF8, b"b")), name((CN, UTF8, b"a"), (OU, UTF8, b"b"))),
    "blank or none": (name((CN, UTF8, b"a b")), name((CN, UTF8, b"ab"))),
    "text or number": (name((CN, UTF8, b"a")), name((CN, 2, b"a"))),
    "nothing": (MODEL, name()),
    "unreadable bytes": (name((CN, UTF8, b"\xff")), name((CN, T61, b"\xff"))),
}


@pytest.mark.parametrize("kind", EQUAL)
def test_names_are_equal_by_value(kind):
    one, other = EQUAL[kind]
    assert same(one, other)
    assert same(other, one)


def test_a_text_that_takes_long_to_normalise_is_compared_byte_for_byte():
    # Each mark of the second half moves past all of the first one.
    long = name((CN, UTF8, ("\u0315" * 15_000 + "\u0316" * 15_000).encode()))
    begin = time.process_time()
    assert same(long, bytes(long))
    assert not same(long, long[:-1] + b"\x17")
    assert time.process_time() - begin < 0.5


@pytest.mark.parametrize("kind", DIFFERENT)
def test_names_that_differ_are_told_apart(kind):
    one, other = DIFFERENT[kind]
    assert not same(one, other)
    assert not same(other, one)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (MODEL, "CN=dev-1,O=Müller GmbH"),
        (name((O, T61, b"M\xfcller")), "O=M\ufffdller"),
        (name((CN, UTF8, b"M\xfcller")), "CN=M\ufffdller"),
        (name((CN, UTF8, b"a\x1b[31m\n")), "CN=a\ufffd[31m\ufffd"),
        (name((CN, UTF8, "a\u202eb".encode())), "CN=a\ufffdb"),
        (name((CN, UTF8, b'#a,b+"c" ')), 'CN=\\#a\\,b\\+\\"c\\"\\ '),
        (name(("1.2.3", 2, b"\x05")), "1.2.3=#020105"),
        (two_valued((CN, UTF8, b"a"), (OU, UTF8, b"b")), "CN=a+OU=b"),
        (b"\x30\x05", "(unreadable, 2 bytes)"),
        (name((CN, UTF8, b"x" * 10_000)), f"CN={'x' * (MAX_SHOWN - 3)}..."),
    ],
)
def test_a_name_is_shown_safely(value, text):
    assert shown(value) == text


def test_the_common_name_is_found_wherever_it_is():
    assert common_name(MODEL) == "dev-1"
    assert common_name(two_valued((OU, UTF8, b"b"), (CN, T61, b"\xe4"))) == "\ufffd"
    assert common_name(name()) == common_name(b"\x30\x05") == common_name(seq(tlv(0x31, seq()))) == ""


@settings(deadline=None, database=None, max_examples=300)
@given(
    st.binary(max_size=100) | st.binary(max_size=100).map(seq) | st.binary(max_size=50).map(lambda b: name((CN, 12, b)))
)
def test_any_bytes_can_be_compared_and_shown(data):
    assert same(data, data)
    same(data, MODEL)
    assert shown(data).isprintable()
    assert common_name(data).isprintable()


def test_alternative_names_are_equal_by_value():
    names = [
        (tlv(0x82, b"Device.Example"), tlv(0x82, b"device.example"), True),
        (tlv(0x81, b"a@Example.com"), tlv(0x81, b"a@example.com"), True),
        (tlv(0x81, b"A@example.com"), tlv(0x81, b"a@example.com"), False),
        (tlv(0xA4, MODEL), tlv(0xA4, EQUAL["case"][1]), True),
        (tlv(0x86, b"urn:A"), tlv(0x86, b"urn:a"), False),
        (tlv(0x82, b"a"), tlv(0x81, b"a"), False),
    ]
    for one, other, equal in names:
        (left,), (right,) = alternative_names(seq(one)), alternative_names(seq(other))
        assert (left.value == right.value) is equal


def test_alternative_names_are_shown():
    names = [tlv(0x82, b"a.\xff\n"), tlv(0x87, b"\x7f\0\0\x01"), tlv(0xA4, MODEL), tlv(0x88, b"\x2a")]
    assert [each.shown for each in alternative_names(seq(*names))] == [
        "a.\ufffd\ufffd",
        "127.0.0.1",
        "CN=dev-1,O=Müller GmbH",
        "88012a",
    ]
