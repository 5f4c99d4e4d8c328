"""A server that renegotiates TLS 1.2 again and again: openssl s_server, told to on its standard input."""

import contextlib
import socket
import subprocess
import threading

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from handler.errors import AnswerError
from hsm.tls import MAX_RENEGOTIATIONS
from tests.simulators.pki import certificate_pem

from .loopback import client_of

TRIES = 40
DONE = b"SSL_do_handshake -> "


@contextlib.contextmanager
def renegotiating(world, command):
    """Start it; give its port, and a list of what it said of each time. `command`: "R" asks for the certificate too."""
    identity = world.pki.server_identity()
    certificate, key = world.folder / "server.crt", world.folder / "server.key"
    certificate.write_bytes(certificate_pem(identity.certificate))
    key.write_bytes(identity.key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    arguments = ["-accept", f"127.0.0.1:{port}", "-cert", certificate, "-key", key, "-tls1_2", "-naccept", "1"]
    with subprocess.Popen(
        ["openssl", "s_server", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        bufsize=0,
    ) as server:
        said = []

        def converse():
            with contextlib.suppress(BrokenPipeError):
                for line in iter(server.stdout.readline, b""):
                    if line.startswith(DONE):
                        said.append(line)
                    if line.startswith((b"GET ", DONE)) and len(said) < TRIES:
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


@pytest.mark.parametrize("command", [b"r", b"R"], ids=["plain", "asks for the certificate"])
def test_a_server_that_renegotiates_without_end_is_refused(world, command):
    with renegotiating(world, command) as (port, said), client_of(world, retry_delays=(), read=5.0) as client:
        with pytest.raises(AnswerError, match="GET /path: it renegotiates TLS without end"):
            client.request("GET", f"https://localhost:{port}/path", content_type="text/plain")
        stats = client._context.session_stats()
    assert len(said) >= MAX_RENEGOTIATIONS
    assert stats["connect_renegotiate"] == MAX_RENEGOTIATIONS
    assert len(said) < TRIES
