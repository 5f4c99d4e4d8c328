"""Odd contents of a token: a key pair without its public key object, an object that the token does not let go."""

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from pkcs11 import Attribute, KeyType, ObjectClass

from handler.exit_status import DONE, REFUSED, SWITCHED, WARNINGS
from hsm.attributes import DESTROYABLE
from hsm.curves import EC_PARAMS
from tests.softhsm import opened, remove_objects

ID = "certs-odd"
pytestmark = pytest.mark.requested(ID)


@pytest.fixture
def factory(token):
    return token


def test_a_key_pair_without_a_public_key_object_is_rotated(factory):
    device = factory.device
    remove_objects(device.token, 1, ObjectClass.PUBLIC_KEY)
    done = device.run()
    assert done.returncode == SWITCHED, done.stderr
    assert device.current_identity().public_key == factory.gateway.current
    assert device.current_identity().whole


def test_a_key_pair_without_a_public_key_object_is_no_problem_to_who_looks(factory):
    device = factory.device
    remove_objects(device.token, 1, ObjectClass.PUBLIC_KEY)
    status = device.run("status")
    assert status.returncode == DONE, status.stdout
    assert "problem" not in status.stdout
    check = device.run("check")
    assert check.returncode == WARNINGS, check.stdout  # there is no systemd here
    assert "key            01 signs" in check.stdout


def test_a_private_key_that_is_missing_as_well_is_a_problem(factory):
    device = factory.device
    for kind in (ObjectClass.PUBLIC_KEY, ObjectClass.PRIVATE_KEY):
        remove_objects(device.token, 1, kind)
    status = device.run("status")
    assert status.returncode == REFUSED
    assert "expected one public key 01" in status.stdout


def test_a_public_key_that_cannot_be_read_is_called_that(factory, refused):
    device = factory.device
    remove_objects(device.token, 1, ObjectClass.PUBLIC_KEY)
    with opened(device.token) as session:
        session.create_object(
            {
                Attribute.CLASS: ObjectClass.PUBLIC_KEY,
                Attribute.KEY_TYPE: KeyType.EC,
                Attribute.TOKEN: True,
                Attribute.ID: b"\x01",
                Attribute.LABEL: "tls",
                Attribute.EC_PARAMS: EC_PARAMS["secp256r1"],
                Attribute.EC_POINT: b"\x04\x41\x04" + bytes(64),
            }
        )
    assert "key 01 of token" in (said := refused(factory))
    assert "has no readable public point: register the device again" in said
    status = device.run("status")
    assert status.returncode == REFUSED
    assert "unreadable, or of another type" in status.stdout


@pytest.mark.parametrize("is_in_the_way", [True, False], ids=["in the way", "elsewhere"])
def test_an_object_that_the_token_does_not_let_go_is_refused_by_name_and_kept(factory, is_in_the_way):
    device = factory.device
    certificate = device.certificate
    with opened(device.token) as session:
        session.create_object(
            {
                Attribute.CLASS: ObjectClass.CERTIFICATE,
                Attribute.CERTIFICATE_TYPE: 0,
                Attribute.TOKEN: True,
                Attribute.ID: b"\x09" if is_in_the_way else b"\x08",
                Attribute.LABEL: "client",
                DESTROYABLE: False,
                Attribute.SUBJECT: certificate.subject.public_bytes(),
                Attribute.VALUE: certificate.public_bytes(Encoding.DER),
            }
        )
    before = device.token_objects()
    done = device.run()
    if is_in_the_way:
        assert done.returncode == REFUSED, done.stderr
        assert "certificate labelled 'client' under id 09 that it does not let go" in done.stderr
        assert device.token_objects() == before
        assert factory.est.requests == []
    else:  # under another id it is nobody's business
        assert done.returncode == SWITCHED, done.stderr
