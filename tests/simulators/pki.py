"""The certificate authorities of a factory, and what they issue.

    factory root ── device CA ── device certificates
    server root ── TLS certificates of the gateway and the EST server

All keys are EC, so that a whole factory is made in milliseconds. Extensions are encoded as in the captures of the
reference implementations. Every certificate is remembered in `issued`: servers find by it what to refuse.
"""

import ipaddress
import os
import ssl
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

YEAR = timedelta(days=365)
CLIENT_AUTH = x509.oid.ExtendedKeyUsageOID.CLIENT_AUTH
SERVER_AUTH = x509.oid.ExtendedKeyUsageOID.SERVER_AUTH
LOOPBACK = ("127.0.0.1", "::1", "localhost")

Extension = tuple[x509.ExtensionType, bool]
"""An extension's value, and whether it is critical."""


@dataclass(frozen=True)
class Authority:
    """A CA: its key and its certificate."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def name(self) -> x509.Name:
        return self.certificate.subject


@dataclass
class Draft:
    """A certificate before it is signed; `issuer_name` is that of `issuer` where it is None."""

    public_key: ec.EllipticCurvePublicKey
    subject: x509.Name
    extensions: list[Extension]
    issuer: Authority
    begins: datetime
    ends: datetime
    issuer_name: x509.Name | None = None

    def replace(self, kind: type[x509.ExtensionType], *extensions: Extension) -> None:
        """Put other extensions (or none) in the place of those of that kind."""
        self.extensions = [each for each in self.extensions if not isinstance(each[0], kind)] + list(extensions)


def key_usage(*names: str) -> x509.KeyUsage:
    """Make a key usage of cryptography's names, e.g. `digital_signature`."""
    every = (
        "digital_signature content_commitment key_encipherment data_encipherment key_agreement key_cert_sign crl_sign "
        "encipher_only decipher_only"
    )
    return x509.KeyUsage(**{name: name in names for name in every.split()})


def general_names(names: Iterable[str]) -> x509.SubjectAlternativeName:
    """Make a subjectAltName: addresses where they are such, else DNS names."""
    found = []
    for name in names:
        try:
            found.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            found.append(x509.DNSName(name))
    return x509.SubjectAlternativeName(found)


def spki_pem(public_key: ec.EllipticCurvePublicKey) -> str:
    """Give the public key as the gateway expects it."""
    return public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Give the private key as `openssl ecparam -genkey` writes it."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())


def certificate_pem(*certificates: x509.Certificate) -> bytes:
    """Give certificates as one PEM text."""
    return b"".join(each.public_bytes(Encoding.PEM) for each in certificates)


def load_identity(
    context: ssl.SSLContext, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate, *chain: x509.Certificate
) -> None:
    """Make the context present that certificate, and that chain; nothing touches the disk."""
    descriptor = os.memfd_create("identity")
    try:
        os.write(descriptor, key_pem(key) + certificate_pem(certificate, *chain))
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


@dataclass
class FactoryPki:
    """A factory's authorities. `factory` is the OU of everything in it."""

    factory: str = "factory"
    validity: timedelta = YEAR
    root: Authority = field(init=False)
    device_ca: Authority = field(init=False)
    server_root: Authority = field(init=False)
    issued: list[x509.Certificate] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.root = self.authority("Factory-CA")
        self.device_ca = self.authority("device-ca", issuer=self.root)
        self.server_root = self.authority("Servers-CA")

    def name(self, common_name: str) -> x509.Name:
        """Make a name in this factory."""
        return x509.Name(
            [
                x509.NameAttribute(x509.NameOID.ORGANIZATIONAL_UNIT_NAME, self.factory),
                x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name),
            ]
        )

    def authority(
        self, common_name: str, *, issuer: Authority | None = None, ends: datetime | None = None
    ) -> Authority:
        """Make a CA; without an issuer, one that signs itself."""
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC)
        extensions: list[Extension] = [
            (x509.BasicConstraints(ca=True, path_length=None), True),
            (key_usage("key_cert_sign", "crl_sign"), True),
        ]
        builder = _builder(key.public_key(), self.name(common_name), extensions)
        builder = builder.issuer_name(issuer.name if issuer else self.name(common_name))
        builder = builder.not_valid_before(now - timedelta(days=2)).not_valid_after(ends or now + 20 * YEAR)
        return Authority(key, builder.sign(issuer.key if issuer else key, hashes.SHA256()))

    def device_draft(
        self, public_key: ec.EllipticCurvePublicKey, *, device: str | None = None, san: Sequence[str] | None = None
    ) -> Draft:
        """Draft a device's first certificate, as registration issues it."""
        now = datetime.now(UTC)
        extensions: list[Extension] = [
            (key_usage("digital_signature"), True),
            (x509.ExtendedKeyUsage([CLIENT_AUTH]), True),
        ]
        if san:
            extensions.append((general_names(san), False))
        subject = self.name(device or str(uuid.uuid4()))
        # Registered a month ago: a rotation made in the same second must not look like this one.
        begins = now - timedelta(days=30)
        return Draft(public_key, subject, extensions, self.device_ca, begins, begins + self.validity)

    def device_certificate(
        self, public_key: ec.EllipticCurvePublicKey, *, device: str | None = None, san: Sequence[str] | None = None
    ) -> x509.Certificate:
        """Issue a device's first certificate."""
        return self.issue(self.device_draft(public_key, device=device, san=san))

    def issue(self, draft: Draft) -> x509.Certificate:
        """Sign a draft with any content, and remember the certificate."""
        builder = _builder(draft.public_key, draft.subject, draft.extensions)
        builder = builder.issuer_name(draft.issuer_name or draft.issuer.name)
        builder = builder.not_valid_before(draft.begins).not_valid_after(draft.ends)
        certificate = builder.sign(draft.issuer.key, hashes.SHA256())
        self.issued.append(certificate)
        return certificate

    def server_identity(
        self, names: Sequence[str] = LOOPBACK, *, issuer: Authority | None = None, begins: datetime | None = None
    ) -> Authority:
        """Make a TLS server's key and certificate for those names, for a year from `begins` (default: yesterday)."""
        key = ec.generate_private_key(ec.SECP256R1())
        begins = begins or datetime.now(UTC) - timedelta(days=1)
        extensions: list[Extension] = [(general_names(names), False), (x509.ExtendedKeyUsage([SERVER_AUTH]), False)]
        issuer = issuer or self.server_root
        draft = Draft(key.public_key(), self.name("server"), extensions, issuer, begins, begins + YEAR)
        return Authority(key, self.issue(draft))

    def ca_bundle_pem(self, *, with_device_cas: bool = False) -> bytes:
        """Give what a device trusts (root.crt).

        With the device CAs in it too, OpenSSL builds a chain of them and sends it along with the client certificate,
        unless told not to: an EST server answers 401 to that.
        """
        others = (self.device_ca.certificate, self.root.certificate) if with_device_cas else ()
        return certificate_pem(self.server_root.certificate, *others)

    def serials_of(self, public_key_pem: str) -> set[int]:
        """Give the serial numbers of all certificates issued for a public key (SPKI, PEM)."""
        return {each.serial_number for each in self.issued if spki_pem(each.public_key()) == public_key_pem}


def revocation_list(authority: Authority, serials: Iterable[int]) -> bytes:
    """Make an authority's CRL, PEM."""
    now = datetime.now(UTC)
    builder = x509.CertificateRevocationListBuilder().issuer_name(authority.name)
    builder = builder.last_update(now - timedelta(days=1)).next_update(now + timedelta(days=1))
    for serial in serials:
        revoked = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now - timedelta(hours=1))
        builder = builder.add_revoked_certificate(revoked.build())
    return builder.sign(authority.key, hashes.SHA256()).public_bytes(Encoding.PEM)


def _builder(
    public_key: ec.EllipticCurvePublicKey, subject: x509.Name, extensions: Sequence[Extension]
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder(public_key=public_key, subject_name=subject)
    builder = builder.serial_number(x509.random_serial_number())
    for value, critical in extensions:
        builder = builder.add_extension(value, critical=critical)
    return builder
