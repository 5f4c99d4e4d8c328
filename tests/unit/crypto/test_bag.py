"""Certificates that come together: one that is odd spoils no other."""

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from handler.crypto import bag
from handler.crypto.bag import certificates_in, certificates_in_pem
from hsm import der
from hsm.certificate import Certificate
from tests.odd_certificates import OddAuthority, seq, tlv
from tests.simulators.certs_only import certs_only

CA = OddAuthority()
LEAF = CA.issue(ec.generate_private_key(ec.SECP256R1()).public_key())
BROKEN = seq(b"\x02\x01\x05")


def indefinite(tag, *parts):
    return bytes([tag, 0x80]) + b"".join(parts) + b"\0\0"


def ders(found):
    return [each.der for each in found]


def test_a_certificate_that_cannot_be_read_is_skipped_with_a_note():
    found, notes = certificates_in(certs_only([BROKEN, LEAF, CA.certificate]))
    assert ders(found) == [LEAF, CA.certificate]
    (note,) = notes
    assert note.startswith("certificate 1 of 3 is skipped, it cannot be read")


def test_a_bag_in_ber_is_read():
    signed = indefinite(
        0x30,
        b"\x02\x01\x01",
        indefinite(0x31),
        indefinite(0x30, der.oid("1.2.840.113549.1.7.1")),
        indefinite(0xA0, LEAF, CA.certificate),
        indefinite(0x31),
    )
    found, notes = certificates_in(indefinite(0x30, der.oid("1.2.840.113549.1.7.2"), indefinite(0xA0, signed)))
    assert ders(found) == [LEAF, CA.certificate]
    assert notes == []


def test_what_is_no_certificate_in_a_bag_is_passed_over():
    found, notes = certificates_in(certs_only([tlv(0xA1, b"attributes"), LEAF]))
    assert ders(found) == [LEAF]
    assert notes == []


@pytest.mark.parametrize("data", [b"", b"\x30\0", seq(der.oid("1.2.840.113549.1.7.2")), LEAF, b"text"])
def test_what_is_no_bag_is_a_value_error(data):
    with pytest.raises(ValueError):
        certificates_in(data)


def test_more_certificates_than_anybody_sends_are_skipped_with_a_note():
    found, notes = certificates_in(certs_only([LEAF] * (bag.MAX_CERTIFICATES + 5)))
    assert len(found) == bag.MAX_CERTIFICATES
    assert notes == [f"5 certificates beyond the first {bag.MAX_CERTIFICATES} are skipped"]


def test_a_file_is_read_certificate_by_certificate():
    broken = "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n"
    text = Certificate.read(LEAF).pem + broken + Certificate.read(CA.certificate).pem
    found, notes = certificates_in_pem(text.encode())
    assert ders(found) == [LEAF, CA.certificate]
    assert len(notes) == 1
