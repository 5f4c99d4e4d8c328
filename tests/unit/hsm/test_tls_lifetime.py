"""Python keys in SSLContexts: how long they live, and many of them at once."""

import gc
import os
import resource
import socket
import ssl
import subprocess
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from handler.device.keystore import IdentityNames
from hsm import tls
from hsm.tls import present_leaf_only, use_private_key, watch_requests

from .handshakes import client_context, connect

P256 = IdentityNames("01", "03")


def test_eight_threads_with_contexts_of_their_own_shake_hands_at_once(authority, server, device):
    def work(_):
        context = client_context(authority)
        device.authenticate(context, P256)
        return [connect(context, server)[-2:] for _ in range(5)]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(8))) == [[b"ok"] * 5] * 8


def test_eight_threads_share_a_context(server, device, context):
    device.authenticate(context, P256)
    with ThreadPoolExecutor(8) as pool:
        assert {answer[-2:] for answer in pool.map(lambda _: connect(context, server), range(40))} == {b"ok"}


def held(key):
    """Count the places in which the binding holds a key."""
    return sum(entry is not None and entry.key is key for entry in tls._openssl().provider.installed.values())


def test_the_key_goes_with_its_context(authority, key, certificate):
    context = client_context(authority)
    use_private_key(context, certificate, key)
    gone = weakref.ref(context), weakref.ref(watch_requests(context))
    assert held(key) == 1
    del context
    gc.collect()
    assert [reference() for reference in gone] == [None, None]
    assert held(key) == 0


def test_a_connection_outlives_its_context(authority, server, key, certificate):
    """Renegotiation aside, nothing of the key is used any more; but it must not be freed under OpenSSL."""
    context = client_context(authority)
    use_private_key(context, certificate, key)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    half_way = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    del context
    gc.collect()
    with socket.create_connection(("localhost", server.port), timeout=20) as connection:
        while True:
            try:
                half_way.do_handshake()
                break
            except ssl.SSLWantReadError:
                connection.sendall(outgoing.read())
                incoming.write(connection.recv(65536))
    assert key.signatures == 1
    del half_way
    gc.collect()


def test_a_thousand_contexts_leave_nothing_behind(authority, key, certificate):
    openssl = tls._openssl()
    pem = authority.file("root")

    def fill(count):
        for _ in range(count):
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.load_verify_locations(pem)
            use_private_key(context, certificate, key)
            present_leaf_only(context)
            watch_requests(context)
        gc.collect()
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    before = fill(300)
    watched = len(openssl.watches)
    assert fill(1000) - before < 512 * 1024
    assert held(key) == 0
    assert len(openssl.watches) <= watched


def test_an_interpreter_ends_cleanly_with_keys_in_contexts(authority, key, certificate):
    """Contexts in globals, in cycles and in a thread that is still running are torn down in any order."""
    (authority.folder / "leaf.der").write_bytes(certificate)
    pem = key._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (authority.folder / "leaf-key.pem").write_bytes(pem)
    program = (
        "import ssl, sys, threading, hsm.tls\n"
        "from pathlib import Path\n"
        "from cryptography.hazmat.primitives.serialization import load_pem_private_key\n"
        "folder = Path(sys.argv[1])\n"
        "key = load_pem_private_key((folder / 'leaf-key.pem').read_bytes(), None)\n"
        "def make():\n"
        "    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)\n"
        "    hsm.tls.use_private_key(context, (folder / 'leaf.der').read_bytes(), key)\n"
        "    hsm.tls.watch_requests(context)\n"
        "    return context\n"
        "kept = make()\n"
        "sys.kept = make()\n"
        "cycle = [make()]; cycle.append(cycle); del cycle\n"
        "ssl.kept = make().wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname='localhost')\n"
        "def forever():\n"
        "    while True: make()\n"
        "threading.Thread(target=forever, daemon=True).start()\n"
    )
    for _ in range(3):
        run = subprocess.run(
            [sys.executable, "-c", program, str(authority.folder)],
            capture_output=True,
            check=False,
            text=True,
            env=os.environ | {"PYTHONFAULTHANDLER": "1"},
        )
        assert (run.returncode, run.stderr) == (0, "")
    assert load_pem_private_key(pem, None).public_key() == key.public_key()
