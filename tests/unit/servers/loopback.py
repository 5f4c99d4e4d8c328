"""An HTTPS server on loopback that answers as a test says, and our client for it."""

from contextlib import contextmanager
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric import ec

from handler.servers.http import HttpClient, Limits
from handler.servers.transport import Deadline
from tests.simulators import https_server
from tests.simulators.pki import FactoryPki, load_identity

KIND = "application/json"
AT_ONCE = (0.0, 0.0)


@dataclass
class World:
    """The factory of these tests and its one device."""

    pki: FactoryPki
    key: ec.EllipticCurvePrivateKey
    folder: object

    @property
    def ca_file(self):
        return self.folder / "root.crt"


class Server(https_server.HttpsServer):
    """Answers with what `answers` holds, one after the other, the last one again and again."""

    answers = (https_server.Answer.text(200, "well"),)

    def respond(self, request):
        number = len(self.state.requests) - 1
        return self.answers[min(number, len(self.answers) - 1)]

    @property
    def asked(self):
        return len(self.state.requests)


class RawServer(Server):
    """Sends the bytes of `says` as its answer to every request, then closes."""

    says = b""

    def serve(self, request, conversation):
        self.state.requests.append(request)
        conversation.connection.sendall(self.says)
        conversation.leave(reset=False)


class InterimServer(Server):
    """Sends the bytes of `interim` before each answer, which is the last part of the path; keeps the connection."""

    interim = b""

    def serve(self, request, conversation):
        self.state.requests.append(request)
        body = request.path.rpartition("/")[2].encode()
        conversation.connection.sendall(
            self.interim + b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        )


@contextmanager
def running(world, kind=Server, **state):
    with kind(https_server.ServerState(world.pki, **state)) as server:
        yield server


@contextmanager
def client_of(world, *, seconds=10.0, stop=None, authenticate=None, ca_file=None, **limits):
    limits = {"retry_delays": AT_ONCE, **limits}
    identity = authenticate or (lambda context: load_identity(context, world.key, world.certificate))
    client = HttpClient(ca_file or world.ca_file, identity, Deadline(seconds), Limits(**limits), stop)
    try:
        yield client
    finally:
        client.close()


def ask(world, address, *, method="GET", body=None, **options):
    """Ask once, with its own client; `address` is a server or an URL."""
    url = address if isinstance(address, str) else f"{address.url}/path"
    with client_of(world, **options) as client:
        return client.request(method, url, content_type=KIND, body=body)
