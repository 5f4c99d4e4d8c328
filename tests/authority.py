"""A CA for tests: issues whatever a test wants to see accepted or refused."""

import datetime as dt

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from hsm.certificate import Certificate

DAY = dt.timedelta(days=1)


def read(certificate):
    """Give a certificate as the program reads it."""
    return Certificate.read(certificate.public_bytes(Encoding.DER))


def device_name(uuid="2e18a81e-2ec7-4471-a2f0-b3e0135b34c4", factory="factory"):
    """Give a device's Subject, as lmp-device-register asks for it."""
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, factory),
            x509.NameAttribute(NameOID.COMMON_NAME, uuid),
        ]
    )


def key_usage(**usages):
    names = (
        "digital_signature content_commitment key_encipherment data_encipherment key_agreement key_cert_sign crl_sign "
        "encipher_only decipher_only"
    )
    return x509.KeyUsage(**{name: usages.get(name, False) for name in names.split()})


class Authority:
    """A CA with its own key and a self-signed certificate, valid for a year around `now`."""

    def __init__(self, name="device-ca", now=None, curve=None):
        self.now = (now or dt.datetime.now(dt.UTC)).replace(microsecond=0)
        self.key = ec.generate_private_key(curve or ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.certificate = self.issue(
            self.key.public_key(), self.name, usage=key_usage(key_cert_sign=True), extended=None, ca=True
        )

    def issue(
        self,
        public_key,
        subject=None,
        *,
        san=None,
        usage=key_usage(digital_signature=True),  # noqa: B008 - immutable
        extended=(ExtendedKeyUsageOID.CLIENT_AUTH,),
        ca=None,
        start=None,
        end=None,
        extensions=(),
        issuer=None,
    ):
        """Issue a certificate; None leaves an extension out, `extensions` are added as (extension, critical)."""
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject or device_name())
            .issuer_name(issuer or self.name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(start or self.now - DAY)
            .not_valid_after(end or self.now + 365 * DAY)
        )
        wanted = [
            (usage, True),
            (extended and x509.ExtendedKeyUsage(extended), True),
            (san and x509.SubjectAlternativeName(san), False),
            (ca is not None and x509.BasicConstraints(ca=ca, path_length=None), True),
            *extensions,
        ]
        for extension, critical in wanted:
            if extension:
                builder = builder.add_extension(extension, critical=critical)
        return builder.sign(self.key, hashes.SHA256())
