"""A server that asks for handshakes again and again: openssl s_server, told to on its standard input."""

import contextlib
import socket
import subprocess
import threading

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from handler.errors import AnswerError
from hsm.tls import MAX_REPEATED
from tests.simulators.pki import certificate_pem

from .loopback import client_of

TRIES = 40
DONE = b"SSL_do_handshake -> "


@contextlib.contextmanager
def asking(world, version, command):
    """Start it; give its port, and a list of what it said of each time.

    `command`: "r" renegotiates (TLS 1.2), "R" asks for the certificate too, "c" only asks for it (TLS 1.3).
    """
    identity = world.pki.server_identity()
    certificate, key, ca = (world.folder / name for name in ("server.crt", "server.key", "clients.crt"))
    ca.write_bytes(b"".join(certificate_pem(each.certificate) for each in (world.pki.root, world.pki.device_ca)))
    certificate.write_bytes(certificate_pem(identity.certificate))
    key.write_bytes(identity.key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    arguments = [
        "-accept",
        f"127.0.0.1:{port}",
        "-cert",
        certificate,
        "-key",
        key,
        "-naccept",
        "1",
        f"-{version}",
        "-CAfile",
        ca,
    ]
    with subprocess.Popen(
        ["openssl", "s_server", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # it talks much
        bufsize=0,
    ) as server:
        said = []

        def converse():
            with contextlib.suppress(BrokenPipeError):
                for line in iter(server.stdout.readline, b""):
                    if line.startswith(DONE):
                        said.append(line)
                    if line.startswith((b"GET ", DONE, b"Failed to initiate")) and len(said) < TRIES:
                        server.stdin.write(command + b"\n")

        while b"ACCEPT" not in server.stdout.readline():
            assert server.poll() is None
        talk = threading.Thread(target=converse)
        talk.start()
        try:
            yield port, said
        finally:
            server.kill()
            talk.join(20)


@pytest.mark.parametrize(
    ("version", "command"), [("tls1_2", b"r"), ("tls1_2", b"R"), ("tls1_3", b"c")], ids=["r", "R", "TLS 1.3"]
)
def test_a_server_that_asks_for_handshakes_without_end_is_refused(world, version, command):
    with asking(world, version, command) as (port, said), client_of(world, retry_delays=(), read=5.0) as client:
        with pytest.raises(AnswerError, match="GET /path: it asks for TLS handshakes without end"):
            client.request("GET", f"https://localhost:{port}/path", content_type="text/plain")
        count = (
            client._watch.requests - 2 if command == b"c" else client._context.session_stats()["connect_renegotiate"]
        )
    assert count == MAX_REPEATED
    assert MAX_REPEATED <= len(said) < TRIES
