"""What a server is told to do wrong, per request or per connection."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from .pki import FactoryPki, spki_pem

ANY = "*"
PORTAL = b"<!DOCTYPE html><html><head><title>Welcome to our Wi-Fi</title></head><body>Please log in</body></html>"


@dataclass
class Fault:
    """One misbehaviour; see `Faults.add`."""

    method: str
    path: str
    times: int | None = 1
    skip: int = 0
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    delay: float = 0.0
    drop: Literal["before", "after"] | None = None
    reset: bool = False
    hang: float | threading.Event | None = None
    huge: int | None = None
    cut: int | None = None
    work: bool | None = None
    announced: bool = False
    """Only for a client whose key the gateway was told of and has not seen yet."""
    seen: int = 0
    """How many requests it was asked about."""

    @property
    def used(self) -> int:
        """How many requests it was applied to."""
        applied = max(0, self.seen - self.skip)
        return applied if self.times is None else min(applied, self.times)

    @property
    def does_work(self) -> bool:
        """Whether the server does what the request asks, before the answer is spoilt."""
        if self.work is not None:
            return self.work
        spoilt = self.drop == "before" or self.hang is not None or (self.reset and self.drop is None)
        return not (spoilt or self.replaces_answer)

    @property
    def replaces_answer(self) -> bool:
        """Whether the client sees another answer than the server's."""
        return self.status is not None or self.body is not None or self.huge is not None

    @property
    def ends_connection(self) -> bool:
        """Whether the client sees no answer at all."""
        return self.drop is not None or self.reset or self.hang is not None

    def take(self) -> bool:
        """Count one request; tell whether it is one to spoil."""
        self.seen += 1
        return self.seen > self.skip and (self.times is None or self.seen <= self.skip + self.times)


class Faults:
    """The misbehaviours of one server: for each request the first that matches and is not used up."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self._connection_faults: list[Fault] = []
        self._refused_serials: set[int] = set()
        self._refused_keys: set[str] = set()
        self._lock = threading.Lock()

    def add(
        self,
        method: str,
        path: str,
        *,
        times: int | None = 1,
        skip: int = 0,
        status: int | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes | str | None = None,
        delay: float = 0.0,
        drop: Literal["before", "after"] | None = None,
        reset: bool = False,
        hang: float | threading.Event | None = None,
        huge: int | None = None,
        cut: int | None = None,
        work: bool | None = None,
        announced: bool = False,
    ) -> Fault:
        """Spoil `times` requests (None: all from then on) after `skip` others; method and end of path may be "*".

        `status`, `headers`, `body`: answer this, without doing the work unless `work`. `delay`: seconds before
        everything else. `drop`: close the connection without an answer, before or after the work; `reset`: with a RST.
        `hang`: say nothing for so many seconds, or until the event is set or the server stops, then close. `huge`: a
        body of so many bytes. `cut`: the server's own answer, but only so many bytes of its body. `announced`: only
        requests of the key that the gateway has not seen yet.
        """
        if isinstance(body, str):
            body = body.encode()
        fault = Fault(
            method, path, times, skip, status, headers or {}, body, delay, drop, reset, hang, huge, cut, work, announced
        )
        with self._lock:
            self._faults.append(fault)
        return fault

    def captive_portal(self, method: str = ANY, path: str = ANY, *, times: int | None = 1, skip: int = 0) -> Fault:
        """Answer like a captive portal: a web page, status 200."""
        headers = {"Content-Type": "text/html; charset=utf-8"}
        return self.add(method, path, times=times, skip=skip, status=200, headers=headers, body=PORTAL)

    def add_connection(
        self,
        *,
        times: int | None = 1,
        skip: int = 0,
        delay: float = 0.0,
        reset: bool = False,
        hang: float | threading.Event | None = None,
    ) -> Fault:
        """Spoil connections before TLS: closed after `delay` (seconds), with a RST if `reset`, or after a `hang`."""
        fault = Fault(ANY, ANY, times, skip, delay=delay, drop="before", reset=reset, hang=hang)
        with self._lock:
            self._connection_faults.append(fault)
        return fault

    def refuse_certificate(self, which: x509.Certificate | int | ec.EllipticCurvePublicKey | str) -> None:
        """Refuse client certificates in the TLS handshake (alert: certificate revoked).

        `which` is a certificate, a serial number, or a public key (also as SPKI, PEM): then all certificates for it,
        those issued later too.
        """
        if isinstance(which, int):
            self._refused_serials.add(which)
        elif isinstance(which, x509.Certificate):
            self._refused_serials.add(which.serial_number)
        else:
            self._refused_keys.add(which if isinstance(which, str) else spki_pem(which))

    def clear(self) -> None:
        """Behave again."""
        with self._lock:
            self._faults.clear()
            self._connection_faults.clear()
        self._refused_serials.clear()
        self._refused_keys.clear()

    def refused_serials(self, pki: FactoryPki) -> set[int]:
        """Give the serial numbers to refuse in a handshake."""
        return self._refused_serials.union(*(pki.serials_of(key) for key in set(self._refused_keys)))

    def for_request(self, method: str, path: str, *, announced: bool = False) -> Fault | None:
        """Take the fault that this request meets."""
        with self._lock:
            for fault in self._faults:
                matches = fault.method in (ANY, method) and (fault.path == ANY or path.endswith(fault.path))
                if matches and announced >= fault.announced and fault.take():
                    return fault
        return None

    def for_connection(self) -> Fault | None:
        """Take the fault that this connection meets."""
        with self._lock:
            return next((fault for fault in self._connection_faults if fault.take()), None)
