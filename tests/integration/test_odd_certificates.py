"""Certificates as real authorities write them: fields that a rotation does not need never stop it."""

import base64
import datetime as dt
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_public_key
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from handler.commands.formats.status_json import status_json
from handler.commands.slots import list_slots
from handler.commands.status import lines
from handler.crypto.csr import build_csr
from handler.device.configuration.configuration import Configuration
from handler.device.device import Device
from handler.errors import RenewalError
from handler.exit_status import DONE, PENDING, REFUSED, SWITCHED
from handler.inspection.status import read_status
from hsm import der
from hsm.certificate import Certificate
from hsm.keystore import TokenKeyStore
from hsm.token import Token
from tests import journal as journals
from tests.invariants import broken_invariants
from tests.odd_certificates import (
    CLIENT,
    CONSTRAINTS,
    POLICIES,
    SAN,
    SHA1,
    OddAuthority,
    device_name,
    extension,
    seq,
    tlv,
    utc,
    with_field,
)
from tests.simulators.factory import running_factory

from .in_process import Outcome, call
from .looking import look

ID = "certs-odd"
pytestmark = pytest.mark.requested(ID)
AUTHORITY = OddAuthority()


@pytest.fixture
def factory(files):
    return files


@pytest.fixture(params=["file", "token"])
def any_factory(request, tmp_path):
    with running_factory(tmp_path / "device", request.param) as running:
        running.device.write_request(ID)
        yield running


def certificate_file(device):
    return Path(device.sota()["import"]["tls_clientcert_path"])


def device_ca_file(device):
    return Path(device.sota()["import"]["tls_cacert_path"])


def put(device, encoded):
    """Put another certificate in the place of the one in use."""
    certificate = Certificate.read(encoded)
    if device.token is None:
        certificate_file(device).write_text(certificate.pem)
        return
    store = TokenKeyStore(Token(device.token.module, device.token.label, device.token.pin), (), ())
    store.store_certificate("03", certificate)
    store.close()


def key_of(device):
    with device.private_key() as key:
        return key.public_key()


def of_the_factory(factory):
    """Give the factory's CA for devices, which writes what a test wants."""
    authority = factory.pki.device_ca
    return OddAuthority(authority.name.public_bytes(), authority.key)


def register(factory, **fields):
    """Give the device a certificate with odd fields, signed by the factory."""
    device = factory.device
    put(device, of_the_factory(factory).issue(key_of(device), **fields))


def subject_of(factory):
    return Certificate.of_pem(certificate_file(factory.device).read_bytes()).subject


def rotates(factory):
    assert call(factory.device) == Outcome(SWITCHED)
    assert call(factory.device).status == DONE


# The current certificate

ODD_SUBJECT = device_name(organization=(0x14, b"M\xfcller"))


def test_a_subject_in_latin_1_is_repeated_as_it_is_and_shown(factory):
    register(factory, subject=ODD_SUBJECT)
    factory.est.odd = lambda key: [of_the_factory(factory).issue(key, subject=ODD_SUBJECT)]
    assert look(factory, "status").returncode == DONE
    assert "O=M\ufffdller" in json.loads(look(factory, "status", "--json").stdout)["identity"]["subject"]
    rotates(factory)
    assert subject_of(factory) == ODD_SUBJECT


ODD_CURRENT = {
    "20 KB": {"extensions": (*CLIENT, extension("1.2.3.4", bytes(20_000)))},
    "year 0": {"validity": seq(tlv(0x18, b"00000101000000Z"), tlv(0x18, b"99991231235959Z"))},
    "year 1": {"validity": seq(tlv(0x18, b"00010101000000Z"), tlv(0x18, b"99991231235959Z"))},
    "a negative serial number": {"serial": tlv(2, b"\xff\x12")},
    "a serial number of 21 bytes": {"serial": tlv(2, b"\x7f" * 21)},
    "a serial number of 300 bytes": {"serial": tlv(2, b"\x7f" * 300)},
    "cA FALSE written out": {"extensions": (*CLIENT, extension(CONSTRAINTS, bytes.fromhex("3003010100")))},
}


@pytest.mark.parametrize("kind", ODD_CURRENT)
def test_an_odd_current_certificate_is_renewed(any_factory, kind):
    register(any_factory, subject=any_factory.device.certificate.subject.public_bytes(), **ODD_CURRENT[kind])
    assert "Traceback" not in look(any_factory, "slots").stderr
    rotates(any_factory)


@pytest.mark.parametrize("kind", ["a negative serial number", "a serial number of 300 bytes"])
def test_an_issued_certificate_with_an_odd_serial_number_is_used(any_factory, kind):
    subject = any_factory.device.certificate.subject.public_bytes()
    any_factory.est.odd = lambda key: [of_the_factory(any_factory).issue(key, subject=subject, **ODD_CURRENT[kind])]
    rotates(any_factory)


@pytest.mark.parametrize("command", ["status", "status --json", "check", "slots", "rotate --dry-run"])
@pytest.mark.parametrize("field", ["serial_number", "algorithm", "issuer", "validity", "subject", "spki"])
def test_no_field_of_the_current_certificate_raises_in_any_command(factory, field, command):
    device = factory.device
    good = factory.device.certificate.public_bytes(Encoding.DER)
    for content in (b"\xff\x1b[31m\xfc", b""):
        put(device, with_field(good, field, tlv(0x30, tlv(0x31, tlv(0x30, tlv(6, b"\x55\x04\x03"), tlv(20, content))))))
        done = device.run(*command.split())
        assert "Traceback" not in done.stdout + done.stderr
        assert done.returncode != 1 or command == "check"
        assert "\x1b[31m" not in done.stdout + done.stderr


@settings(deadline=None, database=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0), st.integers(0, 255))
def test_no_byte_of_the_current_certificate_raises_in_any_call(factory, place, byte):
    device = factory.device
    spoilt = bytearray(factory.device.certificate.public_bytes(Encoding.DER))
    spoilt[place % len(spoilt)] = byte
    pem = base64.encodebytes(bytes(spoilt)).decode()
    certificate_file(device).write_text(f"-----BEGIN CERTIFICATE-----\n{pem}-----END CERTIFICATE-----\n")
    paths = [Path(each) for each in device.environment()["SOTA_DIR"].split(",")]
    configured = Configuration(paths, device.storage)
    status = read_status(configured, device.request_file, named=True)
    assert all(line.isprintable() for line in lines(status, None))
    assert status_json(status).isascii()
    assert list_slots(configured).rows
    used = Device(paths, device.storage)
    try:
        _, certificate = used.identity(used.names_in_use())
        assert build_csr(certificate, ec.generate_private_key(ec.SECP256R1()))
    except RenewalError as error:
        assert str(error).isprintable()  # noqa: PT017


def test_a_certificate_that_openssl_refuses_is_refused_by_name(any_factory):
    device = any_factory.device
    put(device, AUTHORITY.issue(key_of(device), algorithm=SHA1))
    before = device.untouched()
    outcome = call(device)
    assert outcome.status == REFUSED
    assert f"certificate {'03' if device.token else certificate_file(device)} cannot be used" in outcome.said
    assert "signed with ECDSA with sha1" in outcome.said
    assert device.untouched() == before
    found = device.run("check").stdout
    assert "OpenSSL on this device refuses it" in " ".join(found.split())


@pytest.mark.parametrize("place", [("POST", "/simplereenroll"), ("PATCH", "/device")], ids=["enrols", "announces"])
def test_a_rotation_that_waits_loses_nothing_to_a_certificate_that_openssl_refuses(any_factory, place):
    device = any_factory.device
    for server in (any_factory.est, any_factory.gateway):
        server.faults.add(*place, times=None, status=503)
    assert call(device).status == PENDING
    good = device.current_identity().certificate.public_bytes(Encoding.DER)
    put(device, AUTHORITY.issue(key_of(device), algorithm=SHA1))
    for server in (any_factory.est, any_factory.gateway):
        server.faults.clear()
    outcome = call(device)
    assert outcome.status == REFUSED
    assert f"certificate {'03' if device.token else certificate_file(device)} " in outcome.said
    assert "cannot be used: OpenSSL on this device refuses it" in outcome.said
    assert "register the device" in outcome.said
    assert device.current_identity().whole
    put(device, good)
    assert call(device).status == SWITCHED
    assert call(device).status == DONE
    assert broken_invariants(any_factory, ID, completed=True) == []


# The issued certificate

UNSORTED = seq(
    tlv(0x31, *(seq(der.oid(oid), tlv(12, value)) for oid, value in (("2.5.4.11", b"z"), ("2.5.4.3", b"a"))))
)
ODD_EXTENSIONS = {
    "cA FALSE written out": extension(CONSTRAINTS, bytes.fromhex("3003010100"), b"\xff"),
    "a policy notice in Latin-1": extension(
        POLICIES, seq(seq(der.oid("1.2.3"), seq(seq(der.oid("1.3.6.1.5.5.7.2.2"), seq(tlv(0x0C, b"M\xfcller"))))))
    ),
    "a private extension that is none": extension("1.2.3.4", b"\x30\x7f"),
}
ODD_AUTHORITIES = {
    "critical FALSE written out": {"extensions": (extension("2.5.29.14", tlv(4, b"id"), b"\0"),)},
    "an unsorted RDN": {"subject": UNSORTED},
    "a Subject that is none": {"subject": tlv(0x30, b"\x31\x7f")},
    "a time that is none": {"validity": seq(tlv(0x17, b"x"), tlv(0x17, b"y"))},
    "60 KB": {"extensions": (extension("1.2.3.4", bytes(60_000)),)},
    "not readable": None,
}


@pytest.mark.parametrize("kind", ODD_EXTENSIONS)
def test_an_issued_certificate_with_an_odd_field_is_used(factory, kind):
    subject = subject_of(factory)
    extensions = (*CLIENT, ODD_EXTENSIONS[kind])
    factory.est.odd = lambda key: [of_the_factory(factory).issue(key, subject=subject, extensions=extensions)]
    rotates(factory)


@pytest.mark.parametrize("kind", ODD_AUTHORITIES)
def test_an_odd_ca_certificate_beside_it_spoils_nothing(factory, kind):
    fields = ODD_AUTHORITIES[kind]
    other = seq(b"\x02\x01\x05") if fields is None else AUTHORITY.issue(AUTHORITY.key.public_key(), **fields)
    factory.est.before = [other]
    factory.est.cacerts = [other, factory.pki.root.certificate]
    bundle = device_ca_file(factory.device)
    if fields is not None:
        bundle.write_text(Certificate.read(other).pem + bundle.read_text())
    rotates(factory)


def test_the_same_subject_in_another_encoding_is_used_and_repeated(factory):
    other = tlv(0x30, subject_of(factory)[2:].replace(b"\x0c", b"\x13"))
    factory.est.odd = lambda key: [of_the_factory(factory).issue(key, subject=other)]
    rotates(factory)
    assert subject_of(factory) == other
    factory.device.write_request("certs-next")
    rotates(factory)


REFUSED_ISSUED = {
    "has 20": {"extensions": (*CLIENT, extension("1.2.3.4", bytes(20_000)))},
    "has 70": {"extensions": (*CLIENT, extension("1.2.3.4", bytes(70_000)))},
    "notBefore of the issued certificate is '00000101000000Z'": ODD_CURRENT["year 0"],
    "notBefore of the issued certificate is '00010101000000Z'": ODD_CURRENT["year 1"],
    "signed with ECDSA with sha1": {"algorithm": SHA1},
    "have its CA write another": {"extensions": (*CLIENT, extension(SAN, b"\xff\xff"))},
    "as RFC 5280 requires": {"serial": tlv(2, b"\0\0\5")},
}


@pytest.mark.parametrize("said", REFUSED_ISSUED)
def test_an_issued_certificate_that_cannot_be_used_is_refused_by_name(factory, said):
    subject = subject_of(factory)
    factory.est.odd = lambda key: [of_the_factory(factory).issue(key, subject=subject, **REFUSED_ISSUED[said])]
    outcome = call(factory.device)
    assert outcome.status == REFUSED
    assert said in outcome.said
    assert subject_of(factory) == subject
    factory.est.odd = None
    rotates(factory)


def test_of_two_certificates_the_one_that_is_valid_now_is_used(factory):
    now, day = AUTHORITY.now, dt.timedelta(days=1)
    subject = subject_of(factory)
    authority = of_the_factory(factory)
    times = [seq(utc(now + each * day), utc(now + (each + 60) * day)) for each in (-1, 30)]
    factory.est.odd = lambda key: [authority.issue(key, subject=subject, validity=each) for each in times]
    rotates(factory)
    assert Certificate.of_pem(certificate_file(factory.device).read_bytes()).begin == now - day


WRONG = {
    "for another device": {"subject": ODD_SUBJECT},
    "of a CA": {"extensions": (*CLIENT, extension("2.5.29.19", seq(tlv(1, b"\xff"))))},
    "that OpenSSL refuses": {"algorithm": SHA1},
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_later_certificate_that_is_wrong_is_passed_over(factory, kind):
    now, day = AUTHORITY.now, dt.timedelta(days=1)
    good = {"subject": subject_of(factory), "validity": seq(utc(now - 2 * day), utc(now + 60 * day))}
    wrong = good | {"validity": seq(utc(now - day), utc(now + 90 * day))} | WRONG[kind]
    authority = of_the_factory(factory)
    factory.est.odd = lambda key: [authority.issue(key, **each) for each in (wrong, good)]
    rotates(factory)
    assert Certificate.of_pem(certificate_file(factory.device).read_bytes()).begin == now - 2 * day


@pytest.mark.parametrize("kind", ["year 0", "year 1", "a serial number of 300 bytes"])
@pytest.mark.parametrize("command", ["resume", "unattended", None])
def test_a_call_that_goes_on_with_an_odd_certificate_of_the_journal_says_so_in_words(factory, kind, command):
    device, subject = factory.device, subject_of(factory)
    factory.est.faults.add("GET", "/cacerts", times=None, status=503)
    factory.gateway.faults.add("PATCH", "/device", times=None, status=503)
    assert call(device).status == PENDING
    content = journals.read(device.storage)
    key = load_pem_public_key(content["rotation"]["public_key"].encode())
    odd = of_the_factory(factory).issue(key, subject=subject, **ODD_CURRENT[kind])
    content["rotation"] |= {"certificate": Certificate.read(odd).pem, "step": 0}
    journals.write(device.storage, content)
    outcome = call(device, command)
    assert outcome.status in {PENDING, REFUSED}
    assert ("notBefore of the issued certificate" in outcome.said) is kind.startswith("year")
