"""Labels and attributes of what a rotation makes in a token: those of lmp-device-register."""

from typing import Any

import pkcs11
from cryptography.hazmat.primitives.asymmetric import ec
from pkcs11 import Attribute, CertificateType, KeyType, Mechanism, ObjectClass
from pkcs11 import exceptions as p11
from pkcs11.constants import DEFAULT, MechanismFlag

from hsm.certificate import Certificate
from hsm.curves import EC_PARAMS
from hsm.slots import ObjectId

KEY_LABEL = "tls"
CERTIFICATE_LABEL = "client"


def generate_pair(
    session: pkcs11.Session, object_id: ObjectId, curve: ec.EllipticCurve, *, is_explicit: bool = False
) -> Any:  # noqa: ANN401 - pkcs11 makes its classes as it runs
    """Make the pair as lmp-device-register does; return the private key. tpm2-pkcs11 refuses further attributes.

    `is_explicit`: put class and curve in the private template too, which some secure elements want and others refuse.
    """
    explicit = {Attribute.CLASS: ObjectClass.PRIVATE_KEY, Attribute.EC_PARAMS: EC_PARAMS[curve.name]}
    _, private = session.generate_keypair(
        KeyType.EC,
        id=bytes.fromhex(object_id),
        label=KEY_LABEL,
        store=True,
        mechanism=Mechanism.EC_KEY_PAIR_GEN,
        capabilities=MechanismFlag.SIGN | MechanismFlag.VERIFY | MechanismFlag.DERIVE,
        public_template={
            Attribute.EC_PARAMS: EC_PARAMS[curve.name],
            Attribute.PRIVATE: False,
            Attribute.ENCRYPT: DEFAULT,
            Attribute.WRAP: DEFAULT,
        },
        private_template={
            Attribute.SENSITIVE: True,
            Attribute.EXTRACTABLE: False,
            Attribute.DECRYPT: DEFAULT,
            Attribute.UNWRAP: DEFAULT,
            **(explicit if is_explicit else {}),
        },
    )
    return private


def create_certificate(session: pkcs11.Session, object_id: ObjectId, certificate: Certificate) -> Any:  # noqa: ANN401
    """Create the certificate object (PKCS#11 v2.40 §4.6.3), without issuer and serial number if the token refuses."""
    attributes: dict[Attribute, Any] = {
        Attribute.CLASS: ObjectClass.CERTIFICATE,
        Attribute.CERTIFICATE_TYPE: CertificateType.X_509,
        Attribute.TOKEN: True,
        Attribute.PRIVATE: False,
        Attribute.ID: bytes.fromhex(object_id),
        Attribute.LABEL: CERTIFICATE_LABEL,
        Attribute.SUBJECT: certificate.subject,
        Attribute.VALUE: certificate.der,
    }
    optional = {Attribute.ISSUER: certificate.issuer, Attribute.SERIAL_NUMBER: certificate.serial_number.encoded}
    try:
        return session.create_object(attributes | optional)
    except (p11.AttributeTypeInvalid, p11.AttributeValueInvalid, p11.TemplateInconsistent):
        return session.create_object(attributes)
