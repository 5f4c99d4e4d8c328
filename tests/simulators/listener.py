"""A TCP server in threads of the test process that leaves nothing behind: no thread, no socket, no hidden failure."""

import abc
import contextlib
import socket
import threading
from types import TracebackType
from typing import Self

JOIN_SECONDS = 10.0


class Listener(abc.ABC):
    """Accepts connections on loopback, each served in its own thread by `serve_connection`.

    `with Listener(): ...` starts and stops it. After `stop`, `start` listens on the same port again; in between,
    connections are refused. A failure of the simulator itself, in any thread, is raised by `stop`.
    """

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.host = host
        self.port = 0
        self.stopping = threading.Event()
        self._listener: socket.socket | None = None
        self._acceptor: threading.Thread | None = None
        self._threads: list[threading.Thread] = []
        self._sockets: dict[int, socket.socket] = {}
        self._number = 0
        self._lock = threading.Lock()
        self._failures: list[BaseException] = []

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def __str__(self) -> str:
        return f"{type(self).__name__} on {self.netloc}"

    @property
    def netloc(self) -> str:
        """Host and port, as in a URL."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def start(self) -> Self:
        """Begin to listen; the port is chosen by the system the first time."""
        self.stopping.clear()
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        self._listener = socket.create_server((self.host, self.port), family=family, backlog=64)
        self.port = self._listener.getsockname()[1]
        self._acceptor = threading.Thread(target=self._accept, args=(self._listener,), name=f"{self}: accept")
        self._acceptor.start()
        return self

    def stop(self) -> None:
        """Stop listening, close every connection, wait for all threads. Raises what failed in one of them."""
        if self._listener is None or self._acceptor is None:
            return
        self.stopping.set()
        # Wakes the thread in accept(), which close() alone does not.
        self._listener.shutdown(socket.SHUT_RDWR)
        with self._lock:
            for each in self._sockets.values():
                _hang_up(each)
        self._acceptor.join(JOIN_SECONDS)
        for thread in (self._acceptor, *self._threads):
            thread.join(JOIN_SECONDS)
            if thread.is_alive():
                raise RuntimeError(f"{thread.name} does not end")
        self._threads.clear()
        self._listener.close()
        self._listener = None
        if self._failures:
            raise self._failures.pop()

    @abc.abstractmethod
    def serve_connection(self, connection: socket.socket, number: int) -> None:
        """Serve one connection (numbered from 1). Code that wraps or adds a socket calls `watch`."""

    def watch(self, key: int, connection: socket.socket) -> None:
        """Have that socket closed by `stop`; it takes the place of the one watched under the same key."""
        with self._lock:
            self._sockets[key] = connection
            if self.stopping.is_set():
                _hang_up(connection)

    def unwatch(self, key: int) -> None:
        """Forget a socket that was closed."""
        with self._lock:
            self._sockets.pop(key, None)

    def _accept(self, listener: socket.socket) -> None:
        while not self.stopping.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            if self.stopping.is_set():
                connection.close()
                return
            self._number += 1
            self.watch(self._number, connection)
            self._threads = [each for each in self._threads if each.is_alive()]
            thread = threading.Thread(target=self._serve, args=(connection, self._number), name=f"{self}: connection")
            thread.start()  # first: who waits for all threads may join only those that have started
            self._threads.append(thread)

    def _serve(self, connection: socket.socket, number: int) -> None:
        try:
            with contextlib.suppress(OSError):  # the peer may leave at any time
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.serve_connection(connection, number)
        except BaseException as error:
            self._failures.append(error)
        finally:
            with self._lock:
                last = self._sockets.pop(number)
            last.close()


def _hang_up(connection: socket.socket) -> None:
    """End both directions, so that a thread that reads wakes up; its socket stays its own to close."""
    with contextlib.suppress(OSError):
        # Not SSLSocket.shutdown, which takes the TLS object away from the thread that uses it.
        socket.socket.shutdown(connection, socket.SHUT_RDWR)
