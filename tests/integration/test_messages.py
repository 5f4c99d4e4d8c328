"""What the console says if something is wrong: what it is, where, and what to do."""

import contextlib
import re

import pytest

from handler.exit_status import DONE, PROBLEMS, REFUSED
from tests.simulators.pki import FactoryPki
from tests.terminal import on_terminal

from .looking import look

ID = "certs-messages"


def said(device, *arguments, **environment):
    """Give status, and the words of everything that is said, in one line."""
    done = device.run(*arguments, environment=environment)
    assert "Traceback" not in done.stderr
    return done.returncode, " ".join((done.stdout + done.stderr).split())


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize("content", [b"junk", None], ids=["junk", "missing"])
def test_without_a_ca_file_no_server_is_asked_and_the_ca_line_says_what_to_do(files, content):
    file = files.device.storage / "root.crt"
    file.unlink()
    if content:
        file.write_bytes(content)
    status, words = said(files.device, "check", "-q", "--est-server", files.device.est_url)
    assert status == PROBLEMS
    assert "put the factory's CA certificates there, or correct import.tls_cacert_path" in words
    for server in ("gateway", "EST"):
        assert f"skipped {server} not asked: no server can be trusted without the CA file" in words
    assert "_ssl.c" not in words
    assert files.gateway.requests == files.est.requests == []


@pytest.mark.parametrize("command", ["status", "slots", "rotate"])
def test_a_sota_toml_that_is_missing_is_said_to_be_missing(files, command):
    files.device.sota_toml.unlink()
    files.device.write_request(ID)
    status, words = said(files.device, command)
    assert status == REFUSED
    assert f"expected {'it' if command == 'rotate' else 'them'} in one of {files.device.sota_toml} (not there)" in words
    assert "z-50-fioctl.toml" not in words
    assert words.count("(not there)") == 1


def test_a_broken_configuration_file_is_what_slots_names(token):
    file = token.device.hsm_toml
    file.write_text(file.read_text() + "[[[")
    status, words = said(token.device, "slots")
    assert (status, words.startswith(f"renew-client-cert: refused: {file} is not TOML: ")) == (REFUSED, True)
    assert "p11.module is not set" not in words


def test_a_broken_file_beside_the_tokens_own_is_a_note_of_slots(token):
    (token.device.folder / "usr/lib/sota/conf.d/00-broken.toml").write_text("[[[")
    status, words = said(token.device, "slots")
    assert status == DONE
    assert "00-broken.toml is not TOML" in words


@pytest.mark.parametrize("folder", ["/nowhere", "/etc/passwd"])
def test_a_storage_folder_that_is_none_is_said_to_be_none(files, folder):
    status, words = said(files.device, "log", "--storage-dir", folder)
    assert (status, "does not exist or is not a folder: check storage.path" in words) == (REFUSED, True)
    for command in ("status", "check", "slots"):
        words = said(files.device, command, "--storage-dir", folder)[1]
        assert "run this as root" not in words
        assert "cert-rotation.state.completed cannot be read" not in words


def test_sources_that_differ_are_named_by_every_command(token):
    edit(token.device.sota_toml, '\npkey_source = "pkcs11"', '\npkey_source = "file"')
    expected = (
        f"tls.pkey_source is file ({token.device.sota_toml}) and tls.cert_source is pkcs11 ({token.device.sota_toml}): "
        "expected key and certificate in the same place"
    )
    for command in ("status", "slots", "check"):
        assert expected in said(token.device, command)[1]


def test_of_a_wrong_pair_the_token_tells_what_belongs_together_and_no_server_sees_it(token):
    token.device.write_request(ID)
    assert token.device.run("rotate").returncode == DONE
    edit(token.device.sota_toml, '"07"', '"01"')
    known = "certificate 03 is for key 01 and certificate 09 is for key 07"
    asked = len(token.gateway.requests)
    for command in ("status", "check"):
        words = said(token.device, command)[1]
        assert f"key 01 and certificate 09 do not belong together: {known}" in words
    assert "not tried with the certificate: key and certificate in use do not belong together" in words
    assert len(token.gateway.requests) == asked


def test_a_pin_that_is_not_configured_is_a_problem_of_the_status(token):
    edit(token.device.hsm_toml, "pass = ", "other = ")
    done = look(token, "status")
    assert done.returncode == REFUSED
    assert re.search(r"^problem +p11\.pass is not set: expected it in one of ", done.stdout, re.MULTILINE)
    assert re.search(r"^subject +CN=", done.stdout, re.MULTILINE)
    assert "problem certificate" not in said(token.device, "check")[1]


def test_a_rotation_that_was_refused_and_is_pending_has_not_ended_and_stands_in_the_way(files):
    files.device.write_request(ID)
    files.gateway.faults.add("PATCH", "/config", times=None, status=400, body="no")
    assert files.device.run("rotate").returncode == REFUSED
    assert "last rotation none recorded" in said(files.device, "status")[1]
    status, words = said(files.device, "check", "-q")
    assert status == PROBLEMS
    assert f"problem rotation {ID} is pending after step 3, refused: " in words
    assert "`renew-client-cert resume`, or `renew-client-cert abort`" in words


def test_a_server_that_is_waited_for_is_said_to_be_on_a_terminal_and_not_in_a_pipe(files):
    files.device.write_request(ID)
    files.gateway.faults.add("PATCH", "/device", status=503)
    shown = on_terminal(files.device, "rotate", columns=500)
    assert shown.status == DONE
    (line,) = [each for each in shown.lines if each.startswith("info: ")]
    assert "PATCH " in line
    assert "HTTP 503" in line
    files.device.write_request("certs-pipe")
    files.gateway.faults.add("PATCH", "/device", status=503)
    assert "info: " not in files.device.run("rotate").stderr


def test_a_wait_for_the_token_that_is_no_number_is_refused_where_it_is_needed_only(files):
    files.device.write_request(ID)
    for command in ("status", "slots", "log"):
        assert said(files.device, command, HSM_WAIT="abc")[0] == DONE
    assert (
        "problem configuration HSM_WAIT in the environment is 'abc'" in said(files.device, "check", HSM_WAIT="abc")[1]
    )
    assert said(files.device, "rotate", HSM_WAIT="abc")[0] == REFUSED


# What check says is what rotate does


@pytest.mark.parametrize("options", [[], ["--dry-run"]], ids=["rotate", "dry run"])
def test_without_a_request_file_a_rotation_by_hand_takes_the_usual_ids_as_check_does(token, options):
    given = ("--est-server", token.device.est_url)
    assert (
        "key 07 and certificate 09 are empty or ours (01,07 and 03,09, from the usual ids)"
        in said(token.device, "check", *given)[1]
    )
    done = token.device.run("rotate", *given, *options)
    assert done.returncode == DONE, done.stderr
    assert "key 07, certificate 09" in done.stdout or "p11.tls_pkey_id: 01 -> 07" in done.stdout


def test_a_request_without_ids_is_refused_with_the_option_that_gives_them(token):
    token.device.write_request(ID, pkeyids=None)
    status, words = said(token.device, "rotate")
    assert status == REFUSED
    assert (
        "PKEYIDS is missing: expected two or more distinct ids from 01 to 09, such as 01,07; by hand: --pkey-ids"
        in (words)
    )
    assert token.device.run("rotate", "--pkey-ids", "01,07").returncode == DONE


@contextlib.contextmanager
def wrong_pin(token):
    edit(token.device.hsm_toml, f'"{token.device.token.pin}"', '"999111"')
    yield


@contextlib.contextmanager
def away(token):
    with token.device.token.away():
        yield


@pytest.mark.parametrize("trouble", [wrong_pin, away])
def test_where_the_key_cannot_be_used_the_servers_are_tried_without_a_certificate(token, trouble):
    with trouble(token):
        words = said(token.device, "check", "--est-server", token.device.est_url)[1]
    server, est = token.gateway_server.url, token.device.est_url
    why = "is reachable and trusted; not tried with the certificate: the token is not open"
    assert f"skipped gateway {server} {why}" in words
    assert f"skipped EST {est} {why}" in words
    # The gateway's handshake ends without a certificate; the EST server serves some who have none.
    assert token.gateway.requests == []
    assert [each.certificate for each in token.est.requests] == [None]


def test_a_server_that_is_not_there_or_not_trusted_is_a_problem_without_a_certificate_too(token):
    with away(token):
        (token.device.storage / "root.crt").write_bytes(FactoryPki().ca_bundle_pem())
        token.est_server.stop()
        words = said(token.device, "check", "--est-server", token.device.est_url)[1]
    assert "problem gateway device gateway 127.0.0.1:" in words
    assert "presented a certificate that no CA in import.tls_cacert_path issued" in words
    assert re.search(r"problem EST EST server 127\.0\.0\.1:\d+: GET /est: Connection refused", words)
    assert token.gateway.requests == []
