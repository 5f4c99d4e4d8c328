"""`check` of the request and the two servers: every kind of problem has its line, and nothing is given away."""

import ssl

import pytest

from handler.exit_status import DONE, PENDING, SWITCHED
from tests import journal as journals

from .checking import checked, findings, not_ok, replaced

ID = "certs-check"
GATEWAY, EST = ("GET", "/config-device"), ("GET", "/.well-known/est/cacerts")
NOT_YET = {"status": 503, "headers": {"Retry-After": "3000"}, "times": None}
HERE = {"services", "handler"}
"""What is never as on a device where tests run."""


# The request


@pytest.mark.parametrize(
    ("request_file", "words"),
    [
        ({"pkeyids": "01,1"}, "PKEYIDS"),
        ({"estserver": "http://a.example"}, "ESTSERVER"),
        ({"estserver": None}, "ESTSERVER is missing"),
    ],
)
def test_a_request_that_would_be_refused_is_a_problem(token, request_file, words):
    token.device.write_request(ID, **request_file)
    levels, text = not_ok(checked(token, asked=[GATEWAY]))
    assert levels == {("problem", "request")}
    assert words in text


# The servers


def test_servers_that_cannot_be_reached_are_problems(factory):
    factory.device.write_request(ID)
    factory.gateway_server.stop()
    factory.est_server.stop()
    levels, text = not_ok(checked(factory))
    assert levels == {("problem", "gateway"), ("problem", "EST")}
    assert "Connection refused" in text


def test_a_name_that_cannot_be_resolved_is_a_problem(files):
    replaced(files.device.sota_toml, 'server = "https://127.0.0.1', 'server = "https://gateway.invalid')
    levels, text = not_ok(checked(files))
    assert levels == {("problem", "gateway")}
    assert "gateway.invalid" in text
    assert "cannot be resolved" in text


def test_servers_of_another_ca_are_problems(files):
    files.device.write_request(ID)
    files.gateway.server_identity = files.est.server_identity = files.pki.server_identity(issuer=files.pki.root)
    levels, text = not_ok(checked(files))
    assert levels == {("problem", "gateway"), ("problem", "EST")}
    assert "no CA in import.tls_cacert_path" in text


def test_a_server_of_another_name_is_a_problem(files):
    files.device.write_request(ID)
    files.est.server_identity = files.pki.server_identity(["est.example"])
    levels, text = not_ok(checked(files, asked=[GATEWAY]))
    assert levels == {("problem", "EST")}
    assert "is for another name" in text


@pytest.mark.parametrize("how", [401, 403, "alert"])
def test_a_gateway_that_refuses_the_certificate_is_a_problem(files, how):
    files.gateway.denied_with = how
    files.gateway.denied.add(files.gateway.current)
    files.gateway.current = None
    levels, text = not_ok(checked(files, asked=[] if how == "alert" else [GATEWAY]))
    assert levels == {("problem", "gateway")}
    assert ("TLS alert" if how == "alert" else f"HTTP {how}") in text


def test_a_gateway_in_trouble_is_asked_once_only(files):
    files.gateway.faults.add("GET", "/config-device", times=None, status=503)
    levels, text = not_ok(checked(files, asked=[GATEWAY]))
    assert levels == {("problem", "gateway")}
    assert "HTTP 503" in text


def test_files_on_the_gateway_that_the_key_cannot_read_are_a_problem(files):
    entry = next(each for each in files.gateway.config_device.values() if not each["Unencrypted"])
    entry["Value"] = "C" + entry["Value"][1:]
    levels, text = not_ok(checked(files, asked=[GATEWAY]))
    assert levels == {("problem", "gateway")}
    assert "cannot be decrypted" in text


def test_an_est_server_that_refuses_the_certificate_is_a_problem(files):
    files.device.write_request(ID)
    files.est.faults.refuse_certificate(files.device.certificate)
    levels, text = not_ok(checked(files, asked=[GATEWAY]))
    assert levels == {("problem", "EST")}
    assert "TLS alert certificate revoked" in text


def test_an_est_server_without_cacerts_or_without_a_question_is_warned_of(files):
    files.device.write_request(ID)
    files.est.cacerts_status = 404
    files.est.client_certificate = ssl.CERT_NONE
    levels, text = not_ok(checked(files, asked=[GATEWAY, EST]))
    assert levels == {("problem", "EST"), ("warning", "EST")}
    assert "HTTP 404" in text
    assert "ends with /.well-known/est" in text
    assert "does not ask for a client certificate" in text


# A rotation is pending


def test_a_certificate_that_the_gateway_may_not_have_seen_is_not_shown_to_it(factory):
    device = factory.device
    device.write_request(ID)
    factory.gateway.faults.add("*", "*", announced=True, **NOT_YET)
    assert device.run().returncode == SWITCHED
    factory.gateway.faults.clear()
    before = factory.gateway.current
    done = checked(factory, asked=[EST])
    assert factory.gateway.current == before != device.current_identity().public_key
    (line,) = [text for level, topic, text in findings(done) if (level, topic) == ("skipped", "gateway")]
    assert "not asked" in line
    assert "point of no return" in line
    assert not_ok(done)[0] == {("warning", "rotation")}


def test_an_est_server_that_is_the_gateway_is_not_asked_either_then(files):
    device = files.device
    device.write_request(ID)
    files.gateway.faults.add("*", "*", announced=True, **NOT_YET)
    assert device.run().returncode == SWITCHED
    files.gateway.faults.clear()
    done = checked(files, "--est-server", f"{files.gateway_server.url}/.well-known/est")
    assert "not asked, because it is also the device gateway" in done.stdout


def test_a_gateway_is_not_asked_where_it_cannot_be_known_what_it_has_seen(files):
    journals.write_earlier(files.device.storage, "{]")
    done = checked(files)
    assert "not asked: it is unknown whether a rotation is pending" in done.stdout
    assert ("warning", "rotation") in not_ok(done)[0]
    journals.path(files.device.storage).with_name("rotation.json").unlink()
    (files.device.storage / "cert-rotation.state").write_text("{}")
    assert "a rotation that fioconfig left is pending" in checked(files).stdout


def test_before_the_switch_the_gateway_is_asked_with_the_old_certificate(factory):
    device = factory.device
    device.write_request(ID)
    factory.gateway.faults.add("PATCH", "/device", **NOT_YET)
    assert device.run().returncode == PENDING
    old = device.current_identity().public_key
    done = checked(factory, asked=[GATEWAY, EST])
    assert factory.gateway.requests[-1].public_key == old
    assert not_ok(done)[0] == {("warning", "rotation")}
    assert f"{ID} is pending after step 1" in not_ok(done)[1]


def test_after_the_proof_the_gateway_is_asked_with_the_new_certificate(factory):
    factory.device.write_request(ID)
    assert factory.device.run().returncode == SWITCHED
    done = checked(factory, asked=[GATEWAY, EST])
    assert not_ok(done)[0] == {("warning", "rotation")}
    assert factory.gateway.requests[-1].public_key == factory.gateway.current
    assert factory.device.run("resume").returncode == DONE


def test_a_storage_folder_given_by_hand_does_not_hide_the_journal_of_the_configured_one(files, tmp_path):
    files.device.write_request(ID)
    files.gateway.faults.add("*", "*", announced=True, **NOT_YET)
    assert files.device.run().returncode == SWITCHED
    files.gateway.faults.clear()
    done = checked(files, "--storage-dir", str(tmp_path), asked=[EST])
    assert "point of no return" in done.stdout
