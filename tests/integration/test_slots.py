"""`slots`: the token's objects, or the files, and whose they are."""

import hashlib
import shutil

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pkcs11 import Attribute, KeyType

from handler.device.lock import device_lock
from handler.device.refused_pin import RefusedPin
from handler.exit_status import DONE, PENDING, REFUSED, SWITCHED
from hsm.curves import EC_PARAMS
from tests import journal as journals
from tests import softhsm
from tests.modules import COUNT_LOW, FINAL_TRY, LOCKED, FlaggedToken
from tests.terminal import on_terminal

from .looking import look


def table(done):
    """Give the lines below the header."""
    assert done.returncode == DONE, done.stdout
    return done.stdout.splitlines()[2:]


def fingerprint(certificate):
    spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(spki).hexdigest()[:12]


def row(text):
    return text.split()


def test_every_object_of_a_token_is_a_line_with_its_flags_and_its_partner(token):
    mark = fingerprint(token.device.certificate)
    assert list(map(row, table(look(token, "slots")))) == [
        ["private", "01", "tls", "P-256", "sign", "derive", "sensitive", mark, "03", "in", "use"],
        ["public", "01", "tls", "P-256", "-", mark, "03", "in", "use"],
        ["cert", "03", "client", "P-256", "-", mark, "01", "in", "use"],
    ]


def test_what_is_ours_is_free_and_what_is_not_is_not(token):
    device = token.device
    softhsm.add_key_pair(device.token, 7)
    softhsm.add_key_pair(device.token, 4, label="edgelock")
    softhsm.add_certificate(device.token, 9, device.certificate, label="cloud")
    softhsm.add_secret(device.token, 5, "wifi")
    softhsm.add_rsa_key_pair(device.token, 6, label="vpn")
    softhsm.add_rsa_key_pair(device.token, 8)
    shown = table(look(token, "slots"))
    uses = {tuple(row(line)[:2]): line.rsplit("  ", 1)[1] for line in shown if not line.startswith("secret")}
    assert uses == {
        ("private", "01"): "in use",
        ("public", "01"): "in use",
        ("cert", "03"): "in use",
        ("private", "04"): "not ours",
        ("public", "04"): "not ours",
        ("private", "06"): "not ours",
        ("public", "06"): "not ours",
        ("private", "08"): "not ours",
        ("public", "08"): "not ours",
        ("private", "07"): "free",
        ("public", "07"): "free",
        ("cert", "09"): "not ours",
    }
    assert [line for line in shown if line.startswith("secret key") and line.endswith("not ours")]
    assert len([line for line in shown if row(line)[1] == "08" and "RSA" in line]) == 2


def test_two_keys_under_the_id_in_use_are_ambiguous(token):
    softhsm.add_key_pair(token.device.token, 1, label="other")
    keys = [line for line in table(look(token, "slots")) if not line.startswith("cert")]
    assert [line.rsplit("  ", 1)[1] for line in keys] == ["ambiguous"] * 4


def test_a_key_that_could_be_copied_is_shown_as_one(token):
    with softhsm.opened(token.device.token) as session:
        private = {Attribute.SENSITIVE: False, Attribute.EXTRACTABLE: True}
        parameters = {Attribute.EC_PARAMS: EC_PARAMS["secp384r1"]}
        session.generate_keypair(
            KeyType.EC, id=b"\x05", label="vpn", store=True, public_template=parameters, private_template=private
        )
    (line,) = [line for line in table(look(token, "slots")) if line.startswith("private  05")]
    assert "extractable" in line
    assert "sensitive" not in line
    assert "P-384" in line


def test_a_label_cannot_steer_the_terminal(token):
    softhsm.add_key_pair(token.device.token, 4, label="\x1b[2Jgone")
    done = look(token, "slots")
    assert "\x1b" not in done.stdout
    assert "\\x1b[2Jgone" in done.stdout


def test_a_table_fits_eighty_columns(token):
    shown = on_terminal(token.device, "slots", columns=80)
    assert max(map(len, shown.lines)) <= 80
    narrow = on_terminal(token.device, "slots", columns=60)
    assert max(map(len, narrow.lines)) <= 60


def test_key_files_are_listed_with_their_certificates(files):
    mark = fingerprint(files.device.certificate)
    assert list(map(row, table(look(files, "slots")))) == [
        ["client.pem", "cert", "0644", "P-256", mark, "pkey.pem", "in", "use"],
        ["pkey.pem", "private", "0600", "P-256", mark, "client.pem", "in", "use"],
    ]


def test_after_a_rotation_the_provisioned_files_are_kept_and_strays_are_leftovers(files):
    device = files.device
    device.write_request("certs-1")
    assert device.run("rotate").returncode == DONE
    shutil.copy(device.current_identity().key, device.storage / "pkey.123.pem")
    (device.storage / "client.9.pem").write_text("nonsense")
    uses = {row(line)[0]: line.rsplit("  ", 1)[1] for line in table(look(files, "slots"))}
    assert (uses.pop("client.9.pem"), uses.pop("pkey.123.pem")) == ("leftover", "leftover")
    assert (uses.pop("client.pem"), uses.pop("pkey.pem")) == ("kept", "kept")
    assert list(uses.values()) == ["in use", "in use"]


def test_what_a_pending_rotation_made_is_pending(factory):
    factory.device.write_request("certs-1")
    factory.gateway.faults.add("PATCH", "/device", times=None, status=503, headers={"Retry-After": "3000"})
    assert factory.device.run().returncode == PENDING
    uses = [line.rsplit("  ", 1)[1] for line in table(look(factory, "slots"))]
    assert sorted(set(uses)) == ["in use", "pending"]


def test_it_answers_while_another_process_holds_the_lock(factory):
    with device_lock(factory.device.storage, 1.0):
        table(look(factory, "slots"))


def test_a_file_that_is_named_but_missing_is_said_to_be(files):
    (files.device.storage / "client.pem").unlink()
    assert next(row(line)[:2] for line in table(look(files, "slots"))) == ["client.pem", "missing"]


# What cannot be shown


@pytest.mark.parametrize(
    ("flags", "words"),
    [(COUNT_LOW, "refused since the last login"), (FINAL_TRY, "one attempt left"), (LOCKED, "locked")],
)
def test_a_pin_at_risk_is_left_alone_and_private_keys_are_not_shown(token, tmp_path, flags, words):
    module = FlaggedToken(token.device, tmp_path)
    done = look(token, "slots", environment=module.environment(flags))
    assert module.logins == 0
    assert words in done.stdout.splitlines()[-1]
    assert {row(line)[0] for line in table(done)[:-1]} == {"public", "cert"}


def test_a_pin_that_was_refused_before_is_left_alone(token, tmp_path):
    module = FlaggedToken(token.device, tmp_path)
    RefusedPin(token.device.storage).refused(token.device.token.label, token.device.token.pin)
    done = look(token, "slots", environment=module.environment())
    assert module.logins == 0
    assert "has refused this PIN before" in done.stdout


def test_a_wrong_pin_is_tried_once_and_noted(token, tmp_path):
    device, module = token.device, FlaggedToken(token.device, tmp_path)
    hsm = device.hsm_toml
    hsm.write_text(hsm.read_text().replace(device.token.pin, "999111"))
    done = device.run("slots", environment=module.environment())
    assert done.returncode == REFUSED
    assert "p11.pass" in done.stderr
    assert "999111" not in done.stdout + done.stderr
    assert device.run("slots", environment=module.environment()).returncode == DONE
    assert module.logins == 1


def test_a_token_that_is_away_is_named(token):
    with token.device.token.away():
        done = token.device.run("slots")
    assert done.returncode == PENDING
    assert token.device.token.label in done.stderr


def test_a_module_that_is_missing_is_named(token):
    token.device.module = "/nowhere/module.so"
    done = look(token, "slots")
    assert done.returncode == REFUSED
    assert "/nowhere/module.so is missing" in done.stderr


def test_a_device_without_a_configuration_is_told_what_is_expected(files):
    done = look(files, "slots", "--sota", "/nowhere/sota.toml")
    assert done.returncode == REFUSED
    assert "/nowhere/sota.toml" in done.stderr


def test_a_journal_that_is_broken_hides_nothing(factory):
    factory.device.write_request("certs-1")
    assert factory.device.run().returncode == SWITCHED
    journals.write_earlier(factory.device.storage, "{")
    assert len(table(look(factory, "slots"))) >= 4


def test_a_label_that_is_not_ascii_is_escaped_where_the_locale_is_c(token):
    softhsm.add_key_pair(token.device.token, 4, label="Schlüssel")
    assert "Schl\\xfcssel" in look(token, "slots", environment={"LC_ALL": "C"}).stdout
    assert "Schl\\xfcssel" in look(token, "slots", environment={"PYTHONIOENCODING": "ascii"}).stdout
    assert "Schl" in look(token, "slots", environment={"LC_ALL": "C.UTF-8"}).stdout
