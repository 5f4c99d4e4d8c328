"""A certificate's fields, each read by itself."""

import contextlib
import datetime as dt

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from hsm import der
from hsm.certificate import Certificate, certificates_of
from tests.odd_certificates import CONSTRAINTS, USAGE, OddAuthority, extension, seq, tlv, with_field

CA = OddAuthority()
KEY = ec.generate_private_key(ec.SECP256R1()).public_key()
GOOD = CA.issue(KEY)
NOW = CA.now


def read_all(certificate):
    """Read every field as the commands do."""
    certificate.begins_after(NOW)
    certificate.has_ended(NOW)
    assert isinstance(certificate.holds(KEY), bool)
    texts = [certificate.shown_begin, certificate.shown_end, certificate.serial, certificate.kind_of_key]
    assert all(each.isprintable() and len(each) < 400 for each in texts)
    assert Certificate.of_pem(certificate.pem.encode()) == certificate
    for time in (certificate.begin, certificate.end):
        if time is not None:
            assert time - dt.timedelta(days=1) < time
    with contextlib.suppress(ValueError):
        certificate.extension(CONSTRAINTS)


@settings(deadline=None, database=None, max_examples=300)
@given(st.integers(0), st.integers(0, 255), st.sampled_from(["change", "cut", "insert"]))
def test_no_bytes_raise_past_the_reader(place, byte, how):
    data = bytearray(GOOD)
    place %= len(data)
    if how == "cut":
        del data[place:]
    elif how == "insert":
        data.insert(place, byte)
    else:
        data[place] = byte
    try:
        found = Certificate.read(bytes(data))
    except ValueError:
        return
    read_all(found)


@settings(deadline=None, database=None, max_examples=300)
@given(
    st.sampled_from(["serial_number", "algorithm", "issuer", "validity", "subject", "spki"]),
    st.integers(1, 0x7E).filter(lambda tag: tag & 0x1F != 0x1F),
    st.binary(max_size=300),
)
def test_no_field_raises_past_the_one_who_asks_for_it(field, tag, content):
    read_all(Certificate.read(with_field(GOOD, field, tlv(tag, content))))


ODD = {
    "cA FALSE written out": extension(CONSTRAINTS, bytes.fromhex("3003010100"), b"\xff"),
    "critical FALSE written out": extension("2.5.29.14", tlv(4, b"id"), b"\0"),
    "a policy notice in Latin-1": extension(
        "2.5.29.32",
        seq(seq(der.oid("1.2.3"), seq(seq(der.oid("1.3.6.1.5.5.7.2.2"), seq(tlv(0x0C, b"M\xfcller")))))),
    ),
    "an extension that is none": tlv(4, b"nothing"),
    "an empty extension": seq(),
}


@pytest.mark.parametrize("kind", ODD)
def test_an_odd_extension_spoils_no_other(kind):
    found = Certificate.read(CA.issue(KEY, extensions=(ODD[kind], USAGE)))
    assert found.extension("2.5.29.15").value == bytes.fromhex("03020780")
    assert found.extension("2.5.29.15").critical


def test_a_certificate_of_version_1_is_read():
    tbs = der.one(GOOD).items[0].items
    found = Certificate.read(seq(seq(*(each.encoded for each in tbs[1:-1])), seq(), tlv(3, b"\0")))
    assert found.subject == Certificate.read(GOOD).subject
    assert found.extension(CONSTRAINTS) is None


TIMES = {
    (0x17, b"491231235959Z"): dt.datetime(2049, 12, 31, 23, 59, 59, tzinfo=dt.UTC),
    (0x17, b"500101000000Z"): dt.datetime(1950, 1, 1, tzinfo=dt.UTC),
    (0x17, b"2601010000Z"): dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
    (0x17, b"260101010000+0100"): dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
    (0x18, b"20260101000000.5Z"): dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
    (0x18, b"99991231235959Z"): dt.datetime(9999, 12, 31, 23, 59, 59, tzinfo=dt.UTC),
    (0x18, b"00000101000000Z"): None,
    (0x18, b"00010101000000Z"): None,
    (0x18, b"20260230000000Z"): None,
    (0x18, b"99991231235959-2359"): None,
    (0x18, b"\xff\x1b[31m"): None,
    (0x02, b"\x05"): None,
}


@pytest.mark.parametrize("written", TIMES, ids=str)
def test_a_time_is_read_or_is_none_and_is_shown_safely(written):
    found = Certificate.read(with_field(GOOD, "validity", seq(tlv(*written), tlv(*written))))
    assert found.begin == found.end == TIMES[written]
    assert found.shown_begin.isprintable()


@pytest.mark.parametrize(
    ("serial", "shown"),
    [
        (b"\x12\x34", "1234"),
        (b"\0\xff", "ff"),
        (b"\xff", "-01"),
        (b"\x80", "-80"),
        (b"", "00"),
        (b"\x7f" * 21, "7f" * 21),
        (b"\x7f" * 300, "7f" * 32 + "... (300 bytes)"),
    ],
)
def test_any_serial_number_is_shown_safely(serial, shown):
    assert Certificate.read(CA.issue(KEY, serial=tlv(2, serial))).serial == shown


def test_certificates_of_a_text_are_read_each_by_itself():
    pem = Certificate.read(GOOD).pem
    broken = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
    trusted = pem.replace("BEGIN CERT", "BEGIN X509 CERT").replace("END CERT", "END X509 CERT")
    found = list(certificates_of(f"text\n{pem}{broken}{trusted}".encode()))
    assert [isinstance(each, Certificate) for each in found] == [True, False, True]
