"""Keys and certificates in files."""

import contextlib
import os
import re
import ssl
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from handler.device.keystore import FileKeyStore, IdentityNames
from handler.errors import RequestRefusedError
from tests.authority import Authority, read

CA = Authority()
P256 = ec.SECP256R1()
EC_PARAMETERS = b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"


@pytest.fixture
def store(tmp_path):
    return FileKeyStore(tmp_path)


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def pem(key, form=PrivateFormat.TraditionalOpenSSL, encryption=None):
    return key.private_bytes(Encoding.PEM, form, encryption or NoEncryption())


def provisioned(folder, key=None, *, chain=()):
    """Put an identity there as the factory does."""
    key = key or ec.generate_private_key(P256)
    certificate = CA.issue(key.public_key())
    (folder / "pkey.pem").write_bytes(pem(key))
    bundle = [certificate, *chain]
    (folder / "client.pem").write_bytes(b"".join(each.public_bytes(Encoding.PEM) for each in bundle))
    return IdentityNames(str(folder / "pkey.pem"), str(folder / "client.pem")), key, certificate


def rotated(store, current=IdentityNames("a", "b")):  # noqa: B008 - immutable
    names = store.unused(current)
    key = store.generate(names.key, P256)
    certificate = CA.issue(key.public_key())
    store.store_certificate(names.certificate, read(certificate))
    return names, key, certificate


class Handshake:
    """A TLS handshake in memory between a context of ours and a server that asks for a client certificate."""

    def __init__(self, context, folder):
        key = ec.generate_private_key(P256)
        server_certificate = CA.issue(
            key.public_key(), san=[x509.DNSName("server")], extended=[x509.ExtendedKeyUsageOID.SERVER_AUTH]
        )
        (folder / "server.pem").write_bytes(pem(key) + server_certificate.public_bytes(Encoding.PEM))
        (folder / "ca.pem").write_bytes(CA.certificate.public_bytes(Encoding.PEM))
        context.load_verify_locations(folder / "ca.pem")
        server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server_context.load_cert_chain(folder / "server.pem")
        server_context.load_verify_locations(folder / "ca.pem")
        server_context.verify_mode = ssl.CERT_REQUIRED
        # TLS 1.2 sends certificates in the clear: they can be counted on the wire.
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.server = server_context.wrap_bio(to_server, to_client, server_side=True)
        self.client = context.wrap_bio(to_client, to_server, server_hostname="server")
        self.sent = b""
        self._run(to_server)

    def _run(self, to_server):
        pending = [self.client, self.server]
        while pending:
            for side in list(pending):
                try:
                    side.do_handshake()
                    pending.remove(side)
                except ssl.SSLWantReadError:
                    pass
                if side is self.client:
                    data = to_server.read()
                    self.sent += data
                    to_server.write(data)


def presented(store, names, folder):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    store.authenticate(context, names)
    return Handshake(context, folder)


def test_paths_of_one_file_are_equal_text(store, tmp_path):
    with contextlib.chdir(tmp_path):
        names = store.canonical(IdentityNames("/var//sota/../sota/pkey.pem", "client.pem"))
    assert names == IdentityNames("/var/sota/pkey.pem", str(tmp_path / "client.pem"))


def test_unused_names_are_new_and_nothing_is_made(store, tmp_path):
    names = {store.unused(IdentityNames("a", "b")) for _ in range(20)}
    assert len(names) == 20
    for each in names:
        number = re.fullmatch(rf"{tmp_path}/pkey\.(\d{{10}})\.pem", each.key)[1]
        assert each.certificate == f"{tmp_path}/client.{number}.pem"
        assert store.canonical(each) == each
    assert names_in(tmp_path) == []


def test_folder_that_is_not_there_has_no_unused_names(tmp_path):
    with pytest.raises(RequestRefusedError, match="missing cannot be opened"):
        FileKeyStore(tmp_path / "missing").unused(IdentityNames("a", "b"))


def test_folder_that_toml_cannot_name_has_no_unused_names(tmp_path):
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/sota\xff"))
    folder.mkdir()
    with pytest.raises(RequestRefusedError, match="is not UTF-8, so TOML cannot name new keys in it: rename"):
        FileKeyStore(folder).unused(IdentityNames("a", "b"))


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1()])
def test_new_key_is_private_and_comes_back(store, curve):
    names = store.unused(IdentityNames("a", "b"))
    made = store.generate(names.key, curve)
    assert store.key(names.key).private_numbers() == made.private_numbers()
    assert made.curve.name == curve.name
    assert stat.S_IMODE(Path(names.key).stat().st_mode) == 0o600
    assert Path(names.key).read_text().startswith("-----BEGIN EC PRIVATE KEY-----\n")


def test_stored_certificate_is_private_and_comes_back(store):
    names, _, certificate = rotated(store)
    store.store_certificate(names.certificate, read(certificate))
    assert store.certificate(names.certificate) == read(certificate)
    assert stat.S_IMODE(Path(names.certificate).stat().st_mode) == 0o600


@pytest.mark.parametrize("form", [PrivateFormat.TraditionalOpenSSL, PrivateFormat.PKCS8])
@pytest.mark.parametrize("before", [b"", EC_PARAMETERS, b"some text\n"])
def test_provisioned_key_is_read_in_any_usual_form(store, tmp_path, form, before):
    key = ec.generate_private_key(P256)
    (tmp_path / "key.pem").write_bytes(before + pem(key, form))
    assert store.key(str(tmp_path / "key.pem")).private_numbers() == key.private_numbers()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (pem(rsa.generate_private_key(65537, 2048)), "RSAPrivateKey"),
        (pem(ed25519.Ed25519PrivateKey.generate(), PrivateFormat.PKCS8), "Ed25519PrivateKey"),
        (pem(ec.generate_private_key(ec.SECP521R1())), "secp521r1"),
        (pem(ec.generate_private_key(P256), PrivateFormat.PKCS8, BestAvailableEncryption(b"x")), "is encrypted"),
        (pem(ec.generate_private_key(P256), encryption=BestAvailableEncryption(b"x")), "is encrypted"),
        (b"", "no readable private key"),
        (pem(ec.generate_private_key(P256))[:-40], "no readable private key"),
        (CA.certificate.public_bytes(Encoding.PEM), "no readable private key"),
    ],
)
def test_other_keys_are_refused_with_the_reason(store, tmp_path, content, words):
    path = tmp_path / "pkey.pem"
    path.write_bytes(content)
    with pytest.raises(RequestRefusedError, match=words) as caught:
        store.key(str(path))
    assert str(path) in str(caught.value)
    assert "expected" in str(caught.value)
    assert store.find_key(str(path)) is None


def test_missing_files_are_refused_by_their_names(store, tmp_path):
    for load in (store.key, store.certificate):
        with pytest.raises(RequestRefusedError, match=f"{tmp_path}/none.pem cannot be read: No such file"):
            load(f"{tmp_path}/none.pem")
    assert store.find_key(f"{tmp_path}/none.pem") is None


def test_first_certificate_of_a_file_counts(store, tmp_path):
    names, _, certificate = provisioned(tmp_path, chain=[CA.certificate])
    assert store.certificate(names.certificate) == read(certificate)


@pytest.mark.parametrize("content", [b"", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_file_without_a_certificate_is_refused_by_its_name(store, tmp_path, content):
    (tmp_path / "client.pem").write_bytes(content)
    with pytest.raises(RequestRefusedError, match=r"client\.pem holds no readable certificate"):
        store.certificate(f"{tmp_path}/client.pem")


@pytest.mark.parametrize("end", ["discard", "retire"])
def test_files_of_a_rotation_are_removed_and_that_can_be_repeated(store, tmp_path, end):
    names, _, _ = rotated(store)
    kept, _, _ = rotated(store)
    for _ in range(2):
        getattr(store, end)(names)
    assert names_in(tmp_path) == sorted(Path(name).name for name in (kept.key, kept.certificate))


@pytest.mark.parametrize("end", ["discard", "retire"])
def test_provisioned_files_are_kept(store, tmp_path, end):
    names, key, certificate = provisioned(tmp_path)
    getattr(store, end)(names)
    assert store.key(names.key).private_numbers() == key.private_numbers()
    assert store.certificate(names.certificate) == read(certificate)


def test_files_outside_of_the_storage_folder_are_kept(store, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    other = tmp_path / "elsewhere" / "pkey.0123456789.pem"
    other.write_bytes(b"x")
    store.retire(IdentityNames(str(other), str(other)))
    assert other.exists()


def test_files_of_a_rotation_are_known_through_a_linked_folder(store, tmp_path):
    names, _, _ = rotated(store)
    link = tmp_path / "link"
    link.symlink_to(tmp_path)
    FileKeyStore(link).retire(names)
    assert names_in(tmp_path) == ["link"]


def test_provisioned_files_are_never_overwritten(store, tmp_path):
    names, key, certificate = provisioned(tmp_path)
    with pytest.raises(ValueError, match="not overwritten"):
        store.generate(names.key, P256)
    with pytest.raises(ValueError, match="not overwritten"):
        store.store_certificate(names.certificate, read(CA.certificate))
    assert store.key(names.key).private_numbers() == key.private_numbers()
    assert store.certificate(names.certificate) == read(certificate)


def test_keys_in_files_can_derive(store):
    assert store.can_derive("pkey.pem")
    store.close()


def test_identity_is_presented_to_a_server(store, tmp_path):
    names, _, certificate = rotated(store)
    shown = presented(store, names, tmp_path).server.getpeercert(binary_form=True)
    assert shown == certificate.public_bytes(Encoding.DER)


@pytest.mark.parametrize("written", [b"\r", b"\r\n", b"\n  ", b""], ids=repr)
def test_identity_whose_key_is_read_is_presented_however_its_lines_end(store, tmp_path, written):
    names, _, certificate = provisioned(tmp_path)
    for path in map(Path, (names.key, names.certificate)):
        path.write_bytes(path.read_bytes().replace(b"\n", written))
    try:
        store.key(names.key)
    except RequestRefusedError:  # cryptography 42 reads only lines that end in LF or CR LF
        assert written != b"\r\n"
    else:
        shown = presented(store, names, tmp_path).server.getpeercert(binary_form=True)
        assert shown == certificate.public_bytes(Encoding.DER)


@pytest.mark.parametrize("chain", [(), (CA.certificate,)])
def test_certificate_is_presented_alone_whatever_its_file_and_the_ca_file_hold(store, tmp_path, chain):
    names, _, certificate = provisioned(tmp_path, chain=chain)
    sent = presented(store, names, tmp_path).sent
    assert certificate.public_bytes(Encoding.DER) in sent
    assert CA.certificate.public_bytes(Encoding.DER) not in sent


def test_authenticating_leaves_no_descriptor_open(store, tmp_path):
    names, _, _ = rotated(store)
    store.authenticate(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), names)
    before = len(names_in(Path("/proc/self/fd")))
    store.authenticate(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), names)
    assert len(names_in(Path("/proc/self/fd"))) == before


def test_key_of_another_certificate_is_refused_with_both_names(store):
    names, _, _ = rotated(store)
    store.store_certificate(names.certificate, read(CA.certificate))
    with pytest.raises(RequestRefusedError, match="do not belong together") as caught:
        store.authenticate(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), names)
    assert names.key in str(caught.value)
    assert names.certificate in str(caught.value)


def test_the_identity_in_use_is_not_a_spare_one_whatever_leads_to_it(tmp_path):
    store = FileKeyStore(tmp_path)
    for name in ("pkey.1.pem", "client.1.pem", "pkey.2.pem", "client.3.pem", "pkey.pem"):
        (tmp_path / name).touch()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("pkey", "client"):
        (elsewhere / f"{name}.pem").symlink_to(tmp_path / f"{name}.1.pem")
    spare = store.spare(IdentityNames(str(elsewhere / "pkey.pem"), str(elsewhere / "client.pem")))
    assert [Path(each.key).name for each in spare] == ["client.3.pem", "pkey.2.pem", "pkey.pem"]
    for each in spare:
        store.retire(each)
    assert sorted(each.name for each in tmp_path.glob("*.pem")) == ["client.1.pem", "pkey.1.pem", "pkey.pem"]
