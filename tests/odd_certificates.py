"""Certificates with any bytes in any field: what cryptography neither writes nor reads, put together from bytes."""

import datetime as dt

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from handler.crypto.csr import spki_der
from hsm import der
from hsm.certificate import Certificate

SHA256, SHA1 = "1.2.840.10045.4.3.2", "1.2.840.10045.4.1"
_DIGESTS = {SHA256: hashes.SHA256(), SHA1: hashes.SHA1()}
KEY_USAGE, SAN, CONSTRAINTS, EXTENDED, POLICIES = (f"2.5.29.{arc}" for arc in (15, 17, 19, 37, 32))


def tlv(tag, *parts):
    return der.encoded(tag, *parts)


def seq(*parts):
    return tlv(0x30, *parts)


def name(*attributes):
    """Give a Name of (OID, tag, bytes), one RDN each."""
    return seq(*(tlv(0x31, seq(der.oid(oid), tlv(tag, value))) for oid, tag, value in attributes))


def device_name(tag=12, organization=None):
    extra = [] if organization is None else [("2.5.4.10", *organization)]
    uuid = b"2e18a81e-2ec7-4471-a2f0-b3e0135b34c4"
    return name(*extra, ("2.5.4.11", tag, b"factory"), ("2.5.4.3", tag, uuid))


def extension(oid, value, *critical):
    """Give an extension; `critical`: the bytes of the BOOLEAN, left out if there are none."""
    return seq(der.oid(oid), *(tlv(1, each) for each in critical), tlv(4, value))


USAGE = extension(KEY_USAGE, bytes.fromhex("03020780"), b"\xff")
PURPOSE = extension(EXTENDED, seq(der.oid("1.3.6.1.5.5.7.3.2")), b"\xff")
CA_NAME = name(("2.5.4.3", 12, b"odd-ca"))
CLIENT = (USAGE, PURPOSE)
AUTHORITY = (extension(CONSTRAINTS, bytes.fromhex("30030101ff"), b"\xff"),)


def utc(moment):
    return tlv(0x17, f"{moment:%y%m%d%H%M%SZ}".encode())


class OddAuthority:
    """A CA that puts any bytes in any field, and signs them."""

    def __init__(self, subject=CA_NAME, key=None):
        self.key = key or ec.generate_private_key(ec.SECP256R1())
        self.subject = subject
        self.now = dt.datetime.now(dt.UTC).replace(microsecond=0)
        self.certificate = self.issue(self.key.public_key(), subject=subject, extensions=AUTHORITY)

    def issue(
        self,
        public_key,
        *,
        subject=None,
        issuer=None,
        extensions=CLIENT,
        serial=b"\x02\x02\x12\x34",
        validity=None,
        algorithm=SHA256,
        version=b"\xa0\x03\x02\x01\x02",
        behind=(),
    ):
        """Issue a certificate, DER; every argument but the key is the bytes of a field."""
        day = dt.timedelta(days=1)
        signature_algorithm = seq(der.oid(algorithm))
        tbs = seq(
            version,
            serial,
            signature_algorithm,
            issuer or self.subject,
            validity or seq(utc(self.now - day), utc(self.now + 365 * day)),
            subject or device_name(),
            spki_der(public_key),
            *behind,
            tlv(0xA3, seq(*extensions)),
        )
        return seq(tbs, signature_algorithm, self.signed(tbs, algorithm))

    def signed(self, tbs, algorithm=SHA256):
        return tlv(3, b"\0", self.key.sign(tbs, ec.ECDSA(_DIGESTS[algorithm])))


def with_field(encoded, field, value):
    """Give a certificate with other bytes as a field (by its name in Certificate); it is not signed again."""
    found = Certificate.read(encoded)
    fields = ["serial_number", "algorithm", "issuer", "validity", "subject", "spki"]
    parts = [each.encoded for each in der.first(found.tbs).items]
    parts[1 + fields.index(field)] = value
    return seq(seq(*parts), found.signature_algorithm, tlv(3, b"\0", found.signature))
