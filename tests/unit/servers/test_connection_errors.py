"""Connections that fail: what passes, what is offline, who is not trusted, and whose certificate is refused."""

import socket
import ssl
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from handler.errors import (
    ConnectionLostError,
    OfflineError,
    PendingError,
    ServerRefusedError,
)
from hsm import tls
from hsm.errors import TokenError
from tests.simulators.pki import FactoryPki, certificate_pem
from tests.unit.hsm.handshakes import SoftwareKey

from .loopback import RawServer, Server, ask, client_of, running

KIND = "application/json"
AT_ONCE = (0.0, 0.0)


# Connections that fail


@pytest.mark.parametrize(
    "fault", [{"drop": "before"}, {"drop": "after"}, {"drop": "after", "reset": True}, {"cut": 0}, {"cut": 2}], ids=str
)
def test_connection_that_breaks_is_tried_again_then_pending(world, server, fault):
    server.state.faults.add("*", "*", times=None, **fault)
    with pytest.raises(PendingError, match=rf"^{server.netloc}: ."):
        ask(world, server)
    assert server.asked == 1 + len(AT_ONCE)


def test_connection_that_breaks_once_does_no_harm(world, server):
    server.state.faults.add("*", "*", drop="before")
    assert ask(world, server).status == 200


@pytest.mark.parametrize(
    "says",
    [
        b"",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5, 6\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: five\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length : 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nno header\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000 + b"\r\n\r\n",
    ],
    ids=lambda says: repr(says[:40]),
)
def test_answer_that_is_no_http_is_pending(world, says):
    with running(world, RawServer) as server:
        server.says = says
        with pytest.raises(PendingError) as caught:
            ask(world, server, retry_delays=())
    assert str(caught.value).startswith(f"{server.netloc}: ")


def test_port_that_nobody_listens_on_is_pending_in_the_systems_words(world, server):
    server.stop()
    with pytest.raises(PendingError, match=rf"^{server.netloc}: GET /path: Connection refused$") as caught:
        ask(world, server)
    assert not isinstance(caught.value, OfflineError)


def test_server_that_does_not_speak_tls_is_pending(world):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        netloc = f"127.0.0.1:{listener.getsockname()[1]}"

        def answer_without_tls():
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer_without_tls)
        thread.start()
        with pytest.raises(PendingError, match=rf"^{netloc}: GET /: TLS failed: "):
            ask(world, f"https://{netloc}/", retry_delays=())
        thread.join()


def test_server_that_accepts_and_says_nothing_is_pending_within_the_time_for_reading(world, server):
    server.state.faults.add("*", "*", hang=threading.Event())
    with pytest.raises(PendingError, match="accepted the request but did not answer in time"):
        ask(world, server, retry_delays=(), read=0.1)


def test_time_for_reading_is_no_longer_than_what_is_left_of_the_deadline(world, server):
    server.state.faults.add("*", "*", hang=threading.Event())
    begin = time.monotonic()
    with pytest.raises(PendingError):
        ask(world, server, seconds=0.15)
    assert time.monotonic() - begin < 5


def test_handshake_that_hangs_is_pending_within_the_time_for_connecting(world, server):
    server.state.faults.add_connection(hang=threading.Event())
    begin = time.monotonic()
    with pytest.raises(PendingError, match="in time"):
        ask(world, server, retry_delays=(), connect=0.1, read=0.1)
    assert time.monotonic() - begin < 5


@pytest.mark.parametrize(
    "head", [b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nDate: now\r\n", b"HTTP/1.1 204 No Content\r\n"]
)
def test_connection_that_ends_inside_the_head_of_an_answer_is_lost(world, head):
    with running(world, RawServer) as server:
        server.says = head
        with pytest.raises(ConnectionLostError, match="broke off before a whole answer"):
            ask(world, server)
    assert server.asked == 1 + len(AT_ONCE)


def test_body_that_stops_in_the_middle_is_pending_within_the_time_for_reading(world):
    class Stalling(Server):
        def serve(self, request, conversation):
            conversation.connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
            self.stopping.wait()

    with running(world, Stalling) as server, pytest.raises(PendingError, match="in time"):
        ask(world, server, retry_delays=(), read=0.1)


def test_body_that_comes_in_pieces_for_too_long_ends_with_the_deadline(world):
    class Chunks(Server):
        def serve(self, request, conversation):
            conversation.connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            while not self.stopping.wait(0.02):
                conversation.connection.sendall(b"1\r\nx\r\n")

    with running(world, Chunks) as server, pytest.raises(PendingError, match=r"too long|in time"):
        ask(world, server, seconds=0.2)


# No network


def test_name_that_cannot_be_resolved_is_offline_at_once(world):
    # An address of a link that is not there: refused by the resolver itself, without asking anybody.
    with pytest.raises(OfflineError, match="cannot be resolved: no network yet, or a wrong name"):
        ask(world, "https://[fe80::1%25missing]:8443/", retry_delays=(50.0,))


def test_address_without_a_route_is_offline_at_once(world):
    # TCP to a broadcast address is "Network is unreachable" on every Linux, without a packet.
    with pytest.raises(
        OfflineError, match=r"^127\.255\.255\.255:8443: GET /: it cannot be reached: Network is unreach"
    ):
        ask(world, "https://127.255.255.255:8443/", retry_delays=(50.0,))


# Trust


def test_server_of_another_ca_is_named_as_not_trusted_and_not_asked_again(world, server):
    other = FactoryPki()
    server.state.server_identity = other.server_identity()
    with pytest.raises(PendingError, match=r"presented a certificate that no CA in import\.tls_cacert_path issued"):
        ask(world, server)
    assert (server.asked, server.state.connections) == (0, 0)


def test_server_whose_certificate_names_another_host_is_not_trusted(world, server):
    server.state.server_identity = world.pki.server_identity(["gateway.example"])
    with pytest.raises(PendingError, match="IP address mismatch"):
        ask(world, server)
    assert server.asked == 0


def test_server_whose_certificate_has_expired_is_not_trusted(world, server):
    server.state.server_identity = world.pki.server_identity(begins=datetime.now(UTC) - timedelta(days=400))
    with pytest.raises(PendingError, match="expired"):
        ask(world, server)


def test_intermediate_ca_alone_is_enough_to_trust(world, server, tmp_path):
    intermediate = world.pki.authority("Intermediate", issuer=world.pki.server_root)
    server.state.server_identity = world.pki.server_identity(issuer=intermediate)
    (tmp_path / "ca").write_bytes(certificate_pem(intermediate.certificate))
    assert ask(world, server, ca_file=tmp_path / "ca").status == 200


def test_nothing_of_the_environment_is_trusted_or_asked(world, server, monkeypatch, tmp_path):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password secret\n")
    (tmp_path / "netrc").chmod(0o600)
    (tmp_path / "nothing.crt").write_bytes(b"")
    for name, value in {
        "HTTPS_PROXY": "http://127.0.0.1:1",
        "ALL_PROXY": "http://127.0.0.1:1",
        "NETRC": str(tmp_path / "netrc"),
        "REQUESTS_CA_BUNDLE": str(tmp_path / "nothing.crt"),
        "CURL_CA_BUNDLE": str(tmp_path / "nothing.crt"),
    }.items():
        monkeypatch.setenv(name, value)
    assert ask(world, server).status == 200
    assert "Authorization" not in server.state.requests[0].headers


def test_tls_is_1_2_at_least_and_names_are_looked_for_in_the_subject_alternative_name_only(world):
    made = []
    with client_of(world, authenticate=made.append):
        (context,) = made
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert not context.hostname_checks_common_name


def test_ca_file_that_is_missing_is_an_error_before_any_request(world, tmp_path):
    with pytest.raises(FileNotFoundError), client_of(world, ca_file=tmp_path / "missing"):
        pass


# The client certificate


def test_alert_about_the_certificate_is_final_and_has_no_status(world, server):
    server.state.faults.refuse_certificate(world.certificate)
    with pytest.raises(ServerRefusedError, match=r"refuses the certificate: TLS alert certificate revoked$") as caught:
        ask(world, server)
    assert caught.value.status is None
    server.stop()  # until the server's thread has noted it, too
    assert len(server.state.refused_handshakes) == 1


def test_alert_about_a_missing_certificate_is_final(world, server):
    with pytest.raises(ServerRefusedError, match="TLS alert certificate required"):
        ask(world, server, authenticate=lambda context: None)


def test_alert_of_a_server_that_has_not_asked_for_the_certificate_is_not_about_it(world):
    """One without a cipher in common says the same, and anybody between can say it before the handshake."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def refuse():
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(bytes((21, 3, 3, 0, 2, 2, 46)))  # certificate_unknown

        thread = threading.Thread(target=refuse)
        thread.start()
        with pytest.raises(ConnectionLostError, match="TLS failed: SSLV3_ALERT_CERTIFICATE_UNKNOWN"):
            ask(world, f"https://127.0.0.1:{listener.getsockname()[1]}/", retry_delays=())
        thread.join()


def test_alert_about_anything_else_is_pending(world, server):
    def only_tls_1_3(context):
        context.minimum_version = ssl.TLSVersion.TLSv1_3

    server.state.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(PendingError, match="TLS failed: TLSV1_ALERT_PROTOCOL_VERSION"):
        ask(world, server, authenticate=only_tls_1_3)


@pytest.mark.parametrize("asks", [ssl.CERT_REQUIRED, ssl.CERT_OPTIONAL, ssl.CERT_NONE])
def test_it_is_known_whether_a_server_asked_for_the_certificate(world, asks):
    with running(world, client_certificate=asks) as server, client_of(world) as client:
        assert client.certificate_requested is False
        client.request("GET", server.url, content_type=KIND)
        assert client.certificate_requested is (asks != ssl.CERT_NONE)


def der(world):
    return world.certificate.public_bytes(Encoding.DER)


def test_token_that_cannot_sign_ends_the_call_with_the_tokens_own_error(world, server):
    error = TokenError("the token was removed")
    key = SoftwareKey(key=world.key, failure=error)
    with pytest.raises(TokenError) as caught:
        ask(world, server, authenticate=lambda context: tls.use_private_key(context, der(world), key))
    assert caught.value is error
    assert server.asked == 0


def test_mistake_inside_a_signature_is_not_taken_for_trouble_of_the_network(world, server):
    mistake = ZeroDivisionError()
    key = SoftwareKey(key=world.key, failure=mistake)
    with pytest.raises(RuntimeError, match="the private key failed inside a TLS handshake") as caught:
        ask(world, server, authenticate=lambda context: tls.use_private_key(context, der(world), key))
    assert caught.value.__cause__ is mistake
