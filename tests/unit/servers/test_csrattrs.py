"""What an EST server wants in a CSR: parsed from DER that is written here by hand, and put into a CSR."""

import contextlib
import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from handler.crypto.csr import NOTHING, CsrAttributes, build_csr
from handler.errors import ServerRefusedError
from handler.servers.csrattrs import MAX_BYTES, parse_csrattrs
from hsm import der
from tests.authority import Authority, read

EXTENSION_REQUEST = "1.2.840.113549.1.9.14"
EXTENSION_TEMPLATE = "1.2.840.113549.1.9.16.2.62"
REQUEST_TEMPLATE = "1.2.840.113549.1.9.16.2.61"
SHA384 = "1.2.840.10045.4.3.3"
EC, RSA, P256, P384 = "1.2.840.10045.2.1", "1.2.840.113549.1.1.1", "1.2.840.10045.3.1.7", "1.3.132.0.34"
KEY_USAGE, EXTENDED, SAN = "2.5.29.15", "2.5.29.37", "2.5.29.17"
SERVER_AUTH = "1.3.6.1.5.5.7.3.1"
UNKNOWN = "1.3.6.1.1.1.1.22"


KEY = ec.generate_private_key(ec.SECP256R1())


@pytest.fixture(scope="module")
def current():
    key = ec.generate_private_key(ec.SECP256R1())
    return read(Authority().issue(key.public_key()))


def tlv(tag, *parts):
    body = b"".join(parts)
    length = bytes([len(body)]) if len(body) < 128 else bytes([0x82]) + len(body).to_bytes(2, "big")
    return bytes([tag]) + length + body


def seq(*parts):
    return tlv(0x30, *parts)


def oid(dotted):
    first, second, *rest = map(int, dotted.split("."))
    out = bytearray()
    for number in (first * 40 + second, *rest):
        digits = [number & 0x7F]
        while number := number >> 7:
            digits.insert(0, number & 0x7F | 0x80)
        out += bytes(digits)
    return tlv(6, bytes(out))


def attribute(kind, *values):
    return seq(oid(kind), tlv(0x31, *values))


def extension(kind, value=None, *, critical=False):
    return seq(oid(kind), *([b"\x01\x01\xff"] if critical else []), *([] if value is None else [tlv(4, value)]))


USAGE = tlv(3, b"\x03\x88")  # digitalSignature, keyAgreement
CA_USAGE = tlv(3, b"\x01\x06")  # keyCertSign, cRLSign
PURPOSES = seq(oid(SERVER_AUTH))


def test_what_rfc_7030_shows_asks_for_nothing_that_is_not_given_but_its_key_and_hash():
    # RFC 7030 §4.5.2: challengePassword, an EC key on P-384, extensionReq of a serial number, ecdsa-with-SHA384.
    der = seq(
        oid("1.2.840.113549.1.9.7"), attribute(EC, oid(P384)), attribute(EXTENSION_REQUEST, oid(UNKNOWN)), oid(SHA384)
    )
    assert parse_csrattrs(der) == CsrAttributes(hash_bits=384, keys=frozenset({"secp384r1"}))


def test_an_empty_sequence_asks_for_nothing():
    assert parse_csrattrs(seq()) == NOTHING


@pytest.mark.parametrize("kind", [EXTENSION_REQUEST, EXTENSION_TEMPLATE])
def test_usages_are_taken_from_extensions(kind):
    der = seq(attribute(kind, seq(extension(KEY_USAGE, USAGE, critical=True), extension(EXTENDED, PURPOSES))))
    wanted = parse_csrattrs(der)
    assert wanted.usages == {"digital_signature", "key_agreement"}
    assert wanted.extended_usages == (SERVER_AUTH,)


def test_a_template_of_rfc_9908_is_read():
    names = seq(tlv(0x31, seq(oid("2.5.4.3"))))
    key = tlv(0xA0, seq(oid(EC), oid(P256)))
    attributes = tlv(0xA1, attribute(EXTENSION_TEMPLATE, seq(extension(KEY_USAGE, USAGE), extension(SAN))))
    wanted = parse_csrattrs(seq(attribute(REQUEST_TEMPLATE, seq(tlv(2, b"\0"), names, key, attributes))))
    assert wanted.keys == {"secp256r1"}
    assert wanted.usages == {"digital_signature", "key_agreement"}


def test_a_template_without_anything_optional_asks_for_nothing():
    assert parse_csrattrs(seq(attribute(REQUEST_TEMPLATE, seq(tlv(2, b"\0"))))) == NOTHING


NAMES = seq(tlv(0x31, seq(oid("2.5.4.3"))))


@pytest.mark.parametrize("names", [[], [NAMES]], ids=["no subject", "a subject"])
@pytest.mark.parametrize(
    ("key", "keys"),
    [
        ([], set()),
        ([tlv(0xA0, seq(oid(RSA)))], {"RSA"}),
        ([tlv(0xA0, seq(oid(EC), oid(P384)))], {"secp384r1"}),
    ],
    ids=["no key", "RSA", "P-384"],
)
def test_every_part_of_a_template_may_be_missing(names, key, keys):
    attributes = tlv(0xA1, attribute(EXTENSION_TEMPLATE, seq(extension(KEY_USAGE, USAGE))))
    for parts, usages in (([], set()), ([attributes], {"digital_signature", "key_agreement"})):
        der = seq(attribute(REQUEST_TEMPLATE, seq(tlv(2, b"\0"), *names, *key, *parts)))
        assert parse_csrattrs(der) == CsrAttributes(frozenset(usages), keys=frozenset(keys))


def test_beside_a_template_nothing_else_counts():
    template = attribute(REQUEST_TEMPLATE, seq(tlv(2, b"\0"), tlv(0xA0, seq(oid(EC), oid(P256)))))
    der = seq(attribute(EC, oid(P384)), oid(SHA384), template)
    assert parse_csrattrs(der) == CsrAttributes(keys=frozenset({"secp256r1"}))


@pytest.mark.parametrize(("kind", "name"), [(RSA, "RSA"), (EC, "EC")])
def test_a_kind_of_key_without_any_parameter_counts(kind, name):
    assert parse_csrattrs(seq(attribute(kind))).keys == {name}


@pytest.mark.parametrize(
    "purpose",
    [
        "2.5.29.37.0",
        "1.3.6.1.5.5.7.3.3",
        "1.3.6.1.5.5.7.3.8",
        "1.3.6.1.5.5.7.3.9",
        "1.2." + "9" * 45,
        "1.3" + ".4294967296" * 20,
    ],
    ids=["any", "code", "time stamps", "OCSP", "one long arc", "many arcs"],
)
def test_purposes_that_are_no_clients_or_that_no_csr_can_hold_are_ignored(current, purpose):
    purposes = seq(oid(purpose), oid(SERVER_AUTH))
    wanted = parse_csrattrs(seq(attribute(EXTENSION_REQUEST, seq(extension(EXTENDED, purposes)))))
    assert wanted.extended_usages == (SERVER_AUTH,)
    assert build_csr(current, ec.generate_private_key(ec.SECP256R1()), wanted)


def test_usages_of_a_ca_names_and_unknown_oids_are_ignored():
    der = seq(
        oid(UNKNOWN),
        attribute(UNKNOWN, tlv(12, b"text")),
        attribute(
            EXTENSION_REQUEST,
            seq(extension(KEY_USAGE, CA_USAGE), extension(SAN, seq(tlv(0x82, b"other.example"))), extension(UNKNOWN)),
        ),
    )
    assert parse_csrattrs(der) == NOTHING


@pytest.mark.parametrize(
    "der",
    [b"", b"\x30", b"text", seq(tlv(2, b"\0")), seq(seq()), seq(seq(oid(EC))), seq() + b"\0", tlv(0x31)],
    ids=["empty", "cut", "text", "integer", "no attribute", "no values", "more behind", "set"],
)
def test_what_is_no_csrattrs_is_a_value_error(der):
    with pytest.raises(ValueError):
        parse_csrattrs(der)


def many_extensions(count):
    """Give an attribute of as many extensions, each with its own purpose, a thousand in a value."""
    purposes = [oid(f"1.2.3.{1000 + number}") for number in range(count)]
    extensions = [extension(EXTENDED, seq(each)) for each in purposes]
    values = (der.encoded(0x30, *extensions[at : at + 1000]) for at in range(0, count, 1000))
    return der.encoded(0x30, der.encoded(0x30, oid(EXTENSION_REQUEST), der.encoded(0x31, *values)))


def test_many_extensions_in_many_values_take_no_longer_than_their_bytes():
    data = many_extensions(7500)
    assert MAX_BYTES * 0.9 < len(data) <= MAX_BYTES
    begin = time.process_time()
    assert len(parse_csrattrs(data).extended_usages) == 7500
    assert time.process_time() - begin < 0.8


def test_64_kilobytes_of_short_identifiers_are_read():
    data = der.encoded(0x30, *[oid("1.2.3")] * 16_000, oid(SHA384))
    assert len(data) > 64_000
    assert parse_csrattrs(data).hash_bits == 384


def test_more_bytes_than_anybody_sends_are_refused_by_their_number():
    with pytest.raises(ValueError, match=f"expected at most {MAX_BYTES}"):
        parse_csrattrs(many_extensions(8000))


@settings(deadline=None, database=None, max_examples=300)
@given(
    st.binary(max_size=60)
    | st.binary(max_size=60).map(seq)
    | st.lists(st.binary(min_size=1, max_size=30).map(lambda arcs: tlv(6, arcs)), max_size=3).map(
        lambda oids: seq(attribute(EXTENSION_REQUEST, seq(extension(EXTENDED, seq(*oids)))))
    )
)
def test_no_bytes_raise_anything_else(current, der):
    with contextlib.suppress(ValueError):
        wanted = parse_csrattrs(der)
        with contextlib.suppress(ServerRefusedError):
            build_csr(current, KEY, wanted)


# In a CSR


def test_what_is_wanted_is_added_to_what_a_renewal_holds(current):
    key = ec.generate_private_key(ec.SECP256R1())
    wanted = CsrAttributes(frozenset({"key_agreement"}), (SERVER_AUTH,), 384, frozenset({"secp256r1", "RSA"}))
    csr = x509.load_der_x509_csr(build_csr(current, key, wanted))
    usage = csr.extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.digital_signature
    assert usage.key_agreement
    assert not usage.key_cert_sign
    purposes = csr.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert {each.dotted_string for each in purposes} == {"1.3.6.1.5.5.7.3.2", SERVER_AUTH}
    assert isinstance(csr.signature_hash_algorithm, hashes.SHA384)
    assert csr.is_signature_valid
    assert csr.subject.public_bytes() == current.subject


@pytest.mark.parametrize("keys", [{"RSA"}, {"secp384r1"}, {"Ed25519", "secp521r1"}])
def test_another_kind_of_key_than_the_current_one_is_refused_by_name(current, keys):
    key = ec.generate_private_key(ec.SECP256R1())
    with pytest.raises(ServerRefusedError, match="/csrattrs") as refused:
        build_csr(current, key, CsrAttributes(keys=frozenset(keys)))
    assert all(each in str(refused.value) for each in keys)
    assert "secp256r1" in str(refused.value)
