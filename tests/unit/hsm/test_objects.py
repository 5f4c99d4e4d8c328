"""A token is looked at once; what may be destroyed is asked again: another process may have changed it."""

import os
import subprocess
import sys

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from pkcs11 import Attribute, ObjectClass

from handler.device.keystore import IdentityNames
from hsm.attributes import DESTROYABLE
from hsm.errors import ObjectConflictError, ObjectMissingError, TokenError
from hsm.keystore import TokenKeyStore
from hsm.slots import parse_ids
from hsm.token import Token
from tests.authority import Authority, read
from tests.softhsm import (
    add_certificate,
    add_key_pair,
    make_token,
    objects,
    opened,
    remove_objects,
    remove_token,
    softhsm_environment,
)

P256 = ec.SECP256R1()
CURRENT, NEXT = IdentityNames("01", "03"), IdentityNames("07", "09")
PAIR = (ObjectClass.PRIVATE_KEY, ObjectClass.PUBLIC_KEY)
issue = Authority().issue


def some_certificate():
    return issue(ec.generate_private_key(P256).public_key())


@pytest.fixture
def token():
    made = make_token()
    add_certificate(made, 3, issue(add_key_pair(made, 1)))
    yield made
    remove_token(made)


@pytest.fixture
def client(token):
    opened_token = Token(token.module, token.label, token.pin)
    yield opened_token
    opened_token.close()


@pytest.fixture
def store(client):
    return TokenKeyStore(client, parse_ids("01,07", "PKEYIDS"), parse_ids("03,09", "CERTIDS"), delays=())


def elsewhere(token, program, *arguments):
    """Run a few lines over a session of the token in another process; a PKCS#11 session is `session`."""
    whole = (
        "import sys; from pkcs11 import Attribute, ObjectClass; from tests.softhsm import *\n"
        "token = TokenFixture(*sys.argv[1:4], None)\n"
        f"{program}\n"
    )
    command = [sys.executable, "-c", whole, token.module, token.label, token.pin, *arguments]
    subprocess.run(command, env=os.environ | softhsm_environment(), check=True)


def relabelled(token, object_id, object_class):
    """Have another process relabel an object, which keeps its handle: OP-TEE gives handles out again."""
    elsewhere(
        token,
        "with opened(token) as session:\n"
        f"    (item,) = session.get_objects({{Attribute.ID: bytes([{object_id}]), "
        f"Attribute.CLASS: ObjectClass.{object_class.name}}})\n"
        "    item[Attribute.LABEL] = 'edgelock'",
    )


def test_a_stranger_that_came_after_the_look_stops_the_generation(token, store):
    assert store.unused(CURRENT) == NEXT
    elsewhere(token, "add_key_pair(token, 7, 'edgelock')")
    before = objects(token)
    with pytest.raises(ObjectConflictError, match="labelled 'edgelock' under id 07"):
        store.generate("07", P256)
    assert objects(token) == before


def test_a_stranger_in_the_place_of_ours_is_kept(token, store):
    store.generate("07", P256)
    assert store.unused(CURRENT) == NEXT
    elsewhere(
        token,
        "for kind in (ObjectClass.PRIVATE_KEY, ObjectClass.PUBLIC_KEY): remove_objects(token, 7, kind)\n"
        "add_key_pair(token, 7, 'edgelock')",
    )
    before = objects(token)
    for act in (lambda: store.discard(NEXT), lambda: store.generate("07", P256)):
        with pytest.raises(TokenError):
            act()
        assert objects(token) == before


@pytest.mark.parametrize("kind", PAIR, ids=lambda kind: kind.name)
@pytest.mark.parametrize("act", ["generate", "discard"])
def test_what_has_become_somebody_elses_under_its_handle_is_kept(token, store, kind, act):
    store.generate("07", P256)
    assert store.unused(CURRENT) == NEXT
    relabelled(token, 7, kind)
    theirs = [each for each in objects(token) if each.label == "edgelock"]
    with pytest.raises(TokenError):
        store.generate("07", P256) if act == "generate" else store.discard(NEXT)
    assert [each for each in objects(token) if each.label == "edgelock"] == theirs


def test_a_certificate_that_has_become_somebody_elses_is_kept(token, store):
    store.store_certificate("09", read(some_certificate()))
    relabelled(token, 9, ObjectClass.CERTIFICATE)
    before = objects(token)
    with pytest.raises(TokenError):
        store.store_certificate("09", read(some_certificate()))
    assert objects(token) == before


def test_what_is_in_use_is_asked_right_before_anything_goes(token, client):
    """Not once before all: the configuration may name the second object once the first is gone."""
    add_certificate(token, 9, some_certificate())
    add_key_pair(token, 7)
    asked = []

    def in_use():
        asked.append(len(objects(token)))
        return IdentityNames("01", "09") if len(asked) > 4 else CURRENT

    store = TokenKeyStore(client, parse_ids("01,07", "a"), parse_ids("03,09", "b"), delays=(), in_use=in_use)
    with pytest.raises(ObjectConflictError, match=r"certificate 09 of .* is in use"):
        store.discard(NEXT)
    assert asked == [6, 6, 6, 5, 4]  # twice before all, then before each object
    assert [(each.object_class, each.id) for each in objects(token) if each.id in ("07", "09")] == [
        ("CERTIFICATE", "09")
    ]


def test_a_signature_under_a_handle_that_was_given_out_again_is_made_again(token, client, store):
    """The look is a new one then; the key itself is the one that was asked for."""
    key = store.key("01")
    other = add_key_pair(token, 5, "other")
    with opened(token) as session:
        (private,) = session.get_objects({Attribute.ID: b"\x05", Attribute.CLASS: ObjectClass.PRIVATE_KEY})
        key.sign(b"data", ec.ECDSA(hashes.SHA256()))
        (mine,) = (each for each in client.seen if (each.kind, each.id) == (ObjectClass.PRIVATE_KEY, "01"))
        handle, mine.item = mine.item.handle, private  # as on OP-TEE, if a handle is kept
        signature = key.sign(b"data", ec.ECDSA(hashes.SHA256()))
    assert other != key.public_key()
    key.public_key().verify(signature, b"data", ec.ECDSA(hashes.SHA256()))
    (found,) = (each for each in client.seen if (each.kind, each.id) == (ObjectClass.PRIVATE_KEY, "01"))
    assert found.item.handle == handle


def test_a_key_without_a_public_key_object_has_that_of_its_certificate(token, store):
    public_key = store.key("01").public_key()
    add_certificate(token, 5, some_certificate(), "somebody's")
    remove_objects(token, 1, ObjectClass.PUBLIC_KEY)
    again = Token(token.module, token.label, token.pin)
    key = TokenKeyStore(again, (), ()).key("01")
    assert key.public_key() == public_key
    public_key.verify(key.sign(b"data", ec.ECDSA(hashes.SHA256())), b"data", ec.ECDSA(hashes.SHA256()))
    peer = ec.generate_private_key(P256)
    assert key.exchange(ec.ECDH(), peer.public_key()) == peer.exchange(ec.ECDH(), public_key)
    again.close()


def test_a_key_without_a_public_key_object_and_without_a_certificate_is_missing(token):
    remove_objects(token, 1, ObjectClass.PUBLIC_KEY)
    remove_objects(token, 3, ObjectClass.CERTIFICATE)
    add_certificate(token, 3, some_certificate())
    again = Token(token.module, token.label, token.pin)
    with pytest.raises(ObjectMissingError, match=r"no public key 01 .* nor a certificate for that key"):
        TokenKeyStore(again, (), ()).key("01")
    again.close()


def test_an_object_that_the_token_does_not_let_go_is_refused_by_name(token, store):
    certificate = some_certificate()
    with opened(token) as session:
        session.create_object(
            {
                Attribute.CLASS: ObjectClass.CERTIFICATE,
                Attribute.CERTIFICATE_TYPE: 0,
                Attribute.TOKEN: True,
                Attribute.ID: b"\x09",
                Attribute.LABEL: "client",
                DESTROYABLE: False,
                Attribute.SUBJECT: certificate.subject.public_bytes(),
                Attribute.VALUE: certificate.public_bytes(Encoding.DER),
            }
        )
    before = objects(token)
    with pytest.raises(ObjectConflictError, match=r"certificate labelled 'client' under id 09 .*CKA_DESTROYABLE") as no:
        store.unused(CURRENT)
    assert no.value.final
    assert objects(token) == before
