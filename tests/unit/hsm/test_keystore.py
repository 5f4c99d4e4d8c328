"""The key store in a token: which slots are used in turn, what is ours, and what is refused before it is touched."""

import itertools
import os
import subprocess
import sys
from dataclasses import dataclass

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from pkcs11 import Attribute, ObjectClass
from pkcs11.exceptions import AttributeSensitive

from handler.device.keystore import IdentityNames
from hsm.errors import ObjectConflictError, ObjectMissingError, TokenError, UnsupportedError
from hsm.keystore import TokenKeyStore
from hsm.slots import parse_ids
from hsm.token import Token
from tests.authority import Authority, read
from tests.softhsm import (
    TokenFixture,
    add_certificate,
    add_key_pair,
    add_rsa_key_pair,
    add_secret,
    make_token,
    objects,
    opened,
    remove_objects,
    remove_token,
    softhsm_environment,
)

P256 = ec.SECP256R1()
CURRENT = IdentityNames("01", "03")
NEXT = IdentityNames("07", "09")
issue = Authority().issue


@dataclass
class Device:
    """A token as lmp-device-register leaves it, and a store over it."""

    token: TokenFixture
    store: TokenKeyStore

    def with_ids(self, key_ids: str, certificate_ids: str) -> TokenKeyStore:
        return TokenKeyStore(
            self.store._token, parse_ids(key_ids, "PKEYIDS"), parse_ids(certificate_ids, "CERTIDS"), delays=()
        )

    def ids(self, object_class: str) -> list[tuple[str, str]]:
        return [(item.id, item.label) for item in objects(self.token) if item.object_class == object_class]


@pytest.fixture
def device():
    token = make_token()
    add_certificate(token, 3, issue(add_key_pair(token, 1)))
    client = Token(token.module, token.label, token.pin)
    store = TokenKeyStore(client, parse_ids("01,07", "PKEYIDS"), parse_ids("03,09", "CERTIDS"), delays=())
    yield Device(token, store)
    store.close()
    remove_token(token)


def rotate(store, current):
    """Do what a rotation does with its store."""
    names = store.unused(current)
    key = store.generate(names.key, store.key(current.key).curve)
    store.store_certificate(names.certificate, read(issue(key.public_key())))
    store.retire(current)
    return names


def test_ids_have_one_canonical_form(device):
    assert device.store.canonical(IdentityNames("1", "003")) == CURRENT


@pytest.mark.parametrize("name", ["10", "0a", "", "tls"])
def test_an_id_that_is_none_is_refused(device, name):
    with pytest.raises(UnsupportedError, match="expected 01 to 09"):
        device.store.canonical(IdentityNames(name, "03"))


@pytest.mark.parametrize("current", [CURRENT, IdentityNames("1", "3"), IdentityNames("001", "03")])
def test_the_unused_slots_are_chosen_by_value(device, current):
    assert device.store.unused(current) == NEXT


def test_key_and_certificate_slots_are_chosen_independently(device):
    assert device.store.unused(IdentityNames("01", "09")) == IdentityNames("07", "03")


def test_choosing_changes_nothing(device):
    before = objects(device.token)
    device.store.unused(CURRENT)
    assert objects(device.token) == before


def test_a_generated_pair_has_the_attributes_of_the_first_one(device):
    device.store.generate("07", P256)
    with opened(device.token) as session:
        (private,) = session.get_objects({Attribute.CLASS: ObjectClass.PRIVATE_KEY, Attribute.ID: b"\x07"})
        assert private[Attribute.LABEL] == "tls"
        for attribute in (Attribute.SIGN, Attribute.DERIVE, Attribute.SENSITIVE, Attribute.PRIVATE, Attribute.TOKEN):
            assert private[attribute] is True
        assert private[Attribute.EXTRACTABLE] is False
        with pytest.raises(AttributeSensitive):
            private[Attribute.VALUE]
        (public,) = session.get_objects({Attribute.CLASS: ObjectClass.PUBLIC_KEY, Attribute.ID: b"\x07"})
        assert public[Attribute.LABEL] == "tls"
        assert public[Attribute.VERIFY] is True


@pytest.mark.parametrize("curve", [P256, ec.SECP384R1()], ids=lambda curve: curve.name)
def test_a_generated_key_signs_and_agrees(device, curve):
    key = device.store.generate("07", curve)
    assert key.curve.name == curve.name
    key.public_key().verify(key.sign(b"x", ec.ECDSA(hashes.SHA256())), b"x", ec.ECDSA(hashes.SHA256()))
    peer = ec.generate_private_key(curve)
    assert key.exchange(ec.ECDH(), peer.public_key()) == peer.exchange(ec.ECDH(), key.public_key())


def test_rotations_swap_the_slots_and_leave_two_of_each(device):
    names = CURRENT
    for _ in range(3):
        before = names
        names = rotate(device.store, names)
        assert names == (NEXT if before == CURRENT else CURRENT)
        assert device.store.certificate(names.certificate).public_key() == device.store.key(names.key).public_key()
    assert device.ids("PRIVATE_KEY") == device.ids("PUBLIC_KEY") == [("01", "tls"), ("07", "tls")]
    assert device.ids("CERTIFICATE") == [("03", "client"), ("09", "client")]


def test_the_identity_in_use_is_as_it_was_after_a_rotation(device):
    before = [item for item in objects(device.token) if item.id in ("01", "03")]
    rotate(device.store, CURRENT)
    assert [item for item in objects(device.token) if item.id in ("01", "03")] == before


STRANGERS = {
    "a key pair": lambda token: add_key_pair(token, 7, "edgelock"),
    "an unlabelled key pair": lambda token: add_key_pair(token, 7, ""),
    "a key pair labelled as our certificate": lambda token: add_key_pair(token, 7, "client"),
    "a certificate under the key id": lambda token: add_certificate(token, 7, _some_certificate(), "cloud"),
    "an RSA key pair with our label": lambda token: add_rsa_key_pair(token, 7, "tls"),
    "a secret key with our label": lambda token: add_secret(token, 7, "tls"),
    "a secret key": lambda token: add_secret(token, 7, "wifi"),
    "a certificate": lambda token: add_certificate(token, 9, _some_certificate(), "cloud"),
    "a certificate labelled as our key": lambda token: add_certificate(token, 9, _some_certificate(), "tls"),
    "a key pair under the certificate id": lambda token: add_key_pair(token, 9, "vpn"),
    "a secret key under the certificate id": lambda token: add_secret(token, 9, "wifi"),
    "one of two pairs": lambda token: (add_key_pair(token, 7, "tls"), add_key_pair(token, 7, "vpn")),
}


def _some_certificate():
    return issue(ec.generate_private_key(P256).public_key())


@pytest.mark.parametrize("stranger", STRANGERS)
def test_what_is_not_ours_is_refused_before_anything_is_touched(device, stranger):
    STRANGERS[stranger](device.token)
    before = objects(device.token)
    with pytest.raises(ObjectConflictError, match=r"under id 0[79], .* name another id") as refusal:
        device.store.unused(CURRENT)
    assert refusal.value.final
    assert objects(device.token) == before


@pytest.mark.parametrize("stranger", STRANGERS)
def test_what_is_not_ours_is_not_destroyed_without_asking_either(device, stranger):
    STRANGERS[stranger](device.token)
    before = objects(device.token)
    refusals = 0
    for act in (
        lambda: device.store.generate("07", P256),
        lambda: device.store.store_certificate("09", read(_some_certificate())),
    ):
        try:
            act()
        except ObjectConflictError:
            refusals += 1
    assert refusals == 1
    assert [item for item in objects(device.token) if item in before] == before


def test_strangers_under_other_ids_do_not_matter(device):
    for object_id in (2, 4, 5, 6, 8):
        add_key_pair(device.token, object_id, "edgelock")
    others = [item for item in objects(device.token) if item.label == "edgelock"]
    rotate(device.store, rotate(device.store, CURRENT))
    assert [item for item in objects(device.token) if item.label == "edgelock"] == others


def test_one_list_for_both_kinds_of_ids_is_worked_with(device):
    """Certificates and keys of one id do not meet in a token: each is ours by class and label."""
    store = device.with_ids("01,03", "03,01")
    assert store.unused(CURRENT) == IdentityNames("03", "01")
    store.generate("03", P256)
    store.store_certificate("01", read(_some_certificate()))
    assert device.ids("CERTIFICATE") == [("01", "client"), ("03", "client")]
    assert device.ids("PRIVATE_KEY") == [("01", "tls"), ("03", "tls")]


@pytest.mark.parametrize("half", [ObjectClass.PRIVATE_KEY, ObjectClass.PUBLIC_KEY])
def test_half_a_pair_is_no_key_and_is_cleaned_up(device, half):
    add_key_pair(device.token, 7)
    remove_objects(device.token, 7, half)
    assert device.store.find_key("07") is None
    assert device.store.unused(CURRENT) == NEXT
    key = device.store.generate("07", P256)
    assert device.store.find_key("07").public_key() == key.public_key()
    assert device.ids("PRIVATE_KEY") == device.ids("PUBLIC_KEY") == [("01", "tls"), ("07", "tls")]


def test_halves_of_two_pairs_are_no_key(device):
    add_key_pair(device.token, 7)
    remove_objects(device.token, 7, ObjectClass.PRIVATE_KEY)
    with opened(device.token) as session:
        add_key_pair(device.token, 8)
        (private,) = session.get_objects({Attribute.CLASS: ObjectClass.PRIVATE_KEY, Attribute.ID: b"\x08"})
        private[Attribute.ID] = b"\x07"
    assert device.store.find_key("07") is None


def test_two_of_our_pairs_under_one_id_are_no_key_and_are_both_removed(device):
    add_key_pair(device.token, 7)
    add_key_pair(device.token, 7)
    assert device.store.find_key("07") is None
    device.store.generate("07", P256)
    assert device.ids("PRIVATE_KEY") == [("01", "tls"), ("07", "tls")]


def test_a_private_key_of_somebody_else_beside_ours_is_refused_by_its_label(device):
    add_key_pair(device.token, 7)
    add_key_pair(device.token, 7, "vpn")
    before = objects(device.token)
    for act in (lambda: device.store.unused(CURRENT), lambda: device.store.generate("07", P256)):
        with pytest.raises(ObjectConflictError, match="labelled 'vpn' under id 07"):
            act()
    assert objects(device.token) == before


def test_no_pair_is_no_key(device):
    assert device.store.find_key("07") is None
    assert device.store.find_key("01") is not None


def test_a_certificate_can_be_stored_again(device):
    certificate = _some_certificate()
    device.store.store_certificate("09", read(certificate))
    before = objects(device.token)
    device.store.store_certificate("09", read(certificate))
    assert objects(device.token) == before
    assert device.store.certificate("09") == read(certificate)


def test_a_certificate_of_an_earlier_rotation_is_replaced(device):
    add_certificate(device.token, 9, _some_certificate())
    add_certificate(device.token, 9, _some_certificate())
    certificate = _some_certificate()
    device.store.store_certificate("09", read(certificate))
    assert device.store.certificate("09") == read(certificate)


def test_a_stored_certificate_has_subject_issuer_and_serial_number(device):
    certificate = _some_certificate()
    device.store.store_certificate("09", read(certificate))
    with opened(device.token) as session:
        (item,) = session.get_objects({Attribute.CLASS: ObjectClass.CERTIFICATE, Attribute.ID: b"\x09"})
        assert item[Attribute.SUBJECT] == certificate.subject.public_bytes()
        assert item[Attribute.ISSUER] == certificate.issuer.public_bytes()
        serial = item[Attribute.SERIAL_NUMBER]
        assert serial[:2] == bytes([2, len(serial) - 2])
        assert int.from_bytes(serial[2:], signed=True) == certificate.serial_number


def test_a_missing_certificate_is_named(device):
    with pytest.raises(ObjectMissingError, match="no certificate 09"):
        device.store.certificate("09")


def test_two_certificates_under_one_id_are_refused_with_both_labels(device):
    add_certificate(device.token, 3, _some_certificate(), "other")
    with pytest.raises(ObjectConflictError, match=r"certificate 03 .*, found 2, labelled"):
        device.store.certificate("03")


def test_what_a_rotation_made_is_discarded_and_nothing_else(device):
    before = objects(device.token)
    rotate(device.store, CURRENT)
    device.store.discard(NEXT)
    device.store.discard(NEXT)
    assert objects(device.token) == before


def test_discarding_leaves_what_is_not_ours(device):
    add_key_pair(device.token, 7, "edgelock")
    add_certificate(device.token, 9, _some_certificate(), "edgelock")
    before = objects(device.token)
    device.store.discard(NEXT)
    assert objects(device.token) == before


@pytest.mark.parametrize("name", ["01", "1"])
def test_the_identity_in_use_cannot_be_destroyed(device, name):
    before, used = objects(device.token), [CURRENT]
    store = TokenKeyStore(
        device.store._token, device.store._key_ids, device.store._certificate_ids, in_use=lambda: used[-1]
    )
    for act in (
        lambda: store.generate(name, P256),
        lambda: store.discard(IdentityNames(name, "09")),
        lambda: store.discard(IdentityNames("07", "03")),
        lambda: store.store_certificate("03", read(_some_certificate())),
    ):
        with pytest.raises(ObjectConflictError, match="in use"):
            act()
    assert objects(device.token) == before
    used.append(NEXT)  # asked each time: what is in use changes
    store.generate(name, P256)
    with pytest.raises(ObjectConflictError, match="in use"):
        store.generate("07", P256)


def test_the_token_can_derive(device):
    assert device.store.can_derive("01")


def test_a_key_that_cannot_derive_is_told_before_a_rotation_needs_it(device):
    with opened(device.token) as session:
        (private,) = session.get_objects({Attribute.CLASS: ObjectClass.PRIVATE_KEY})
        private[Attribute.DERIVE] = False
    assert not device.store.can_derive("01")


def test_a_failed_generation_is_tried_again_and_leaves_nothing(device):
    """SoftHSM fails while the folder of its token is not there."""
    before = objects(device.token)
    away = device.token.directory.parent.with_name(device.token.directory.name)
    waited = []

    def wait(seconds):
        waited.append(seconds)
        if len(waited) == 2:
            away.rename(device.token.directory)

    store = TokenKeyStore(
        device.store._token, device.store._key_ids, device.store._certificate_ids, delays=(1.0, 2.0, 3.0), wait=wait
    )
    store.unused(CURRENT)
    device.token.directory.rename(away)
    key = store.generate("07", P256)
    assert waited == [1.0, 2.0]
    assert store.find_key("07").public_key() == key.public_key()
    assert [item for item in objects(device.token) if item.id != "07"] == before


def test_a_generation_that_keeps_failing_ends_with_the_tokens_words(device):
    before = objects(device.token)
    away = device.token.directory.parent.with_name(device.token.directory.name)
    waited = []
    store = TokenKeyStore(
        device.store._token, device.store._key_ids, device.store._certificate_ids, delays=(1.0, 2.0), wait=waited.append
    )
    device.token.directory.rename(away)
    with pytest.raises(TokenError) as failure:
        store.generate("07", P256)
    away.rename(device.token.directory)
    assert not failure.value.final
    assert waited == [1.0, 2.0]
    assert objects(device.token) == before


def test_another_process_sees_the_new_identity(device):
    names = rotate(device.store, CURRENT)
    program = (
        "import sys; from hsm.token import Token; from hsm.keystore import TokenKeyStore\n"
        "store = TokenKeyStore(Token(*sys.argv[1:4]), (), ())\n"
        "print(store.key(sys.argv[4]).public_key() == store.certificate(sys.argv[5]).public_key())\n"
    )
    token = device.token
    said = subprocess.run(
        [sys.executable, "-c", program, token.module, token.label, token.pin, names.key, names.certificate],
        env=os.environ | softhsm_environment(),
        capture_output=True,
        check=True,
        text=True,
    )
    assert said.stdout == "True\n"


def test_many_rotations_leave_no_more_than_two_identities(device):
    names = CURRENT
    for _ in itertools.repeat(None, 20):
        names = rotate(device.store, names)
    assert len(objects(device.token)) == 6
