"""Connections to names with several addresses, and whom a connection trusts whatever requests puts in."""

import os
import socket
import ssl
import subprocess
import sys
import time
from contextlib import ExitStack, closing

import pytest

from handler.errors import OfflineError, PendingError
from handler.servers.transport import Allowance, Deadline, client_context, connect_to_first, session
from tests.simulators.pki import load_identity

from .loopback import Server, ask, running

UNREACHABLE = (socket.AF_INET, ("255.255.255.255", 9))
"""No TCP connection leads to a broadcast address: ENETUNREACH, and nothing is sent."""

FOREIGN = (9999, ())
"""An address of a family that the kernel does not have, as IPv6 where it is switched off: EAFNOSUPPORT."""


@pytest.fixture
def refusing():
    """Give an address of loopback where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield socket.AF_INET, taken.getsockname()


@pytest.fixture
def silent():
    """Give an address whose backlog is full, so that no attempt is answered."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(3):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield socket.AF_INET, listener.getsockname()


def failure(*addresses, seconds=5.0, timeout=0.2):
    with pytest.raises(PendingError) as caught:
        connect_to_first(addresses, Deadline(seconds), timeout)
    return caught.value


def test_no_address_can_be_reached_is_offline():
    error = failure(UNREACHABLE, UNREACHABLE)
    assert isinstance(error, OfflineError)
    assert str(error) == "it cannot be reached: Network is unreachable"


def test_an_address_of_a_family_that_this_device_has_not_says_nothing(silent):
    assert isinstance(failure(FOREIGN, UNREACHABLE), OfflineError)
    assert str(failure(FOREIGN, silent)) == "no answer to the connection attempt in time"


@pytest.mark.parametrize("first", [True, False])
def test_one_address_that_refuses_is_no_lack_of_a_network(refusing, first):
    error = failure(*([refusing, UNREACHABLE] if first else [UNREACHABLE, refusing]))
    assert not isinstance(error, OfflineError)
    assert str(error) == "Connection refused"


def test_one_address_that_is_silent_is_no_lack_of_a_network(silent):
    error = failure(UNREACHABLE, silent)
    assert not isinstance(error, OfflineError)
    assert str(error) == "no answer to the connection attempt in time"


def test_many_silent_addresses_take_no_longer_than_the_call_may(silent):
    begin = time.monotonic()
    failure(*[silent] * 40, seconds=1.0, timeout=10.0)
    assert time.monotonic() - begin < 5


UNANSWERED = """
import sys
from handler.servers.transport import Deadline, connect
connect("est.example", 443, Deadline(0.5), 10.0)
"""


def test_a_name_server_that_is_silent_takes_no_longer_than_the_call_may(tmp_path):
    """The resolver itself would wait for 150 s."""
    address = f"127.53.{os.getpid() >> 8 & 255}.{os.getpid() & 255}"
    resolver = tmp_path / "resolv.conf"
    resolver.write_text(f"nameserver {address}\noptions timeout:30 attempts:5\n")
    (tmp_path / "nsswitch.conf").write_text("hosts: dns\n")
    mounts = f"mount --bind {resolver} /etc/resolv.conf && mount --bind {tmp_path}/nsswitch.conf /etc/nsswitch.conf"
    command = ["unshare", "--mount", "sh", "-ec", f'{mounts}; exec "$@"', "sh", sys.executable, "-c", UNANSWERED]
    with socket.socket(type=socket.SOCK_DGRAM) as server:
        server.bind((address, 53))
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
        server.setblocking(False)
        assert b"\x03est\x07example" in server.recv(512)
    assert done.stderr.endswith("OfflineError: the name cannot be resolved: no name server answers in time\n")


def test_an_address_that_answers_is_found_behind_those_that_do_not(refusing, silent):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        good = (socket.AF_INET, listener.getsockname())
        with closing(connect_to_first([UNREACHABLE, silent, refusing, good], Deadline(5), 0.2)) as made:
            assert made.getpeername() == listener.getsockname()


def test_a_body_that_takes_longer_than_to_connect_is_sent(world):
    class Slow(Server):
        def serve_connection(self, connection, number):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 262_144)
            with self.state.server_context().wrap_socket(connection, server_side=True) as secured:
                left = 8_000_000
                while left > 0 and not self.stopping.wait(0.002):
                    left -= len(secured.recv(16384))
                secured.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    with running(world, Slow) as server:
        assert ask(world, server, method="PATCH", body=bytes(8_000_000), connect=0.2, retry_delays=()).status == 200


def test_a_context_that_somebody_else_puts_in_is_not_used(world):
    """As requests 2.32.2 did: one that trusts the system's CAs; here, one that trusts nobody or everybody."""
    with running(world) as server:
        context = client_context(world.ca_file)
        load_identity(context, world.key, world.certificate)
        used = session(context, allowance := Allowance(Deadline(9)), 5.0)
        pool = used.get_adapter(server.url).poolmanager
        for mode in (ssl.CERT_REQUIRED, ssl.CERT_NONE):
            other = ssl.create_default_context()
            other.check_hostname = False
            other.verify_mode = mode
            pool.clear()
            pool.connection_pool_kw["ssl_context"] = other
            allowance.renew(100_000)
            assert used.get(f"{server.url}/path").status_code == 200  # trusted by our CA file alone
        stranger = world.folder / "stranger.crt"
        stranger.write_bytes(type(world.pki)().ca_bundle_pem())
        used = session(client_context(stranger), allowance, 5.0)
        used.get_adapter(server.url).poolmanager.connection_pool_kw["ssl_context"] = other
        with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
            used.get(f"{server.url}/path", verify=False)
