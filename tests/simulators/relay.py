"""A TCP relay that makes the way longer: each byte arrives a fixed time after it was sent.

The first bytes of a connection arrive one round trip later still: on loopback the TCP handshake, which would have taken
that time, is already over. Counts connections and bytes.
"""

import select
import socket
import time
from collections import deque

from .listener import Listener

CHUNK = 65536


class Relay(Listener):
    """Relays to a port on loopback, `delay` seconds each way."""

    def __init__(self, target_port: int, delay: float, host: str = "127.0.0.1") -> None:
        super().__init__(host)
        self.delay = delay
        self.connections = 0
        self.bytes_to_server = 0
        self.bytes_to_client = 0
        self._target_port = target_port

    @property
    def url(self) -> str:
        return f"https://{self.netloc}"

    def serve_connection(self, connection: socket.socket, number: int) -> None:
        """Relay one connection until both sides have ended it."""
        self.connections += 1
        with socket.create_connection((self.host, self._target_port)) as server:
            server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.watch(-number, server)
            try:
                self._relay(connection, server)
            finally:
                self.unwatch(-number)

    def _relay(self, client: socket.socket, server: socket.socket) -> None:
        opened = time.monotonic() + 2 * self.delay
        to_server, to_client = _Way(client, server, self.delay, opened), _Way(server, client, self.delay, opened)
        ways = (to_server, to_client)
        try:
            while not all(way.ended for way in ways) and not self.stopping.is_set():
                due = [way.queue[0][0] for way in ways if way.queue]
                wait = max(0.0, min(due) - time.monotonic()) if due else None
                readable, _, _ = select.select([way.source for way in ways if way.reading], [], [], wait)
                for way in ways:
                    if way.source in readable:
                        way.read()
                    way.write()
        finally:
            self.bytes_to_server += to_server.bytes
            self.bytes_to_client += to_client.bytes


class _Way:
    """One direction of a connection; an empty chunk at the end of its queue stands for the end."""

    def __init__(self, source: socket.socket, sink: socket.socket, delay: float, opened: float) -> None:
        self.source = source
        self.queue: deque[tuple[float, bytes]] = deque()
        self.reading = True
        self.ended = False
        self.bytes = 0
        self._sink = sink
        self._delay = delay
        self._opened = opened

    def read(self) -> None:
        """Take what was sent, and note when it arrives: not before the connection would have been there."""
        chunk = self.source.recv(CHUNK)
        self.reading = bool(chunk)
        self.queue.append((max(time.monotonic(), self._opened) + self._delay, chunk))

    def write(self) -> None:
        """Hand on what has arrived."""
        while self.queue and self.queue[0][0] <= time.monotonic():
            _, chunk = self.queue.popleft()
            self.bytes += len(chunk)
            if chunk:
                self._sink.sendall(chunk)
            else:
                self._sink.shutdown(socket.SHUT_WR)
                self.ended = True
