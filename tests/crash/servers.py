"""Both servers of a factory, watched: which request is which, what they knew at each moment, and a gateway of moods."""

import bisect
import collections
import copy
import dataclasses
import time
from dataclasses import dataclass

from tests.simulators.https_server import Answer

PROOF = "POST /events with CertRotationCompleted"
MOODS = ("new", "old")
LATE = 7
"""Requests after the first sight that the replica answers that is behind: as many as a rotation needs to go back."""
_KEPT = (list, dict, set, str, type(None))
_JOIN_SECONDS = 10.0


@dataclass(frozen=True)
class Exchange:
    """One request of a run, by what it is, so that it is the same in every run: the `ordinal`-th (from 1) of its kind.

    Events are delivered beside the rotation, in batches that vary; those with its end are told from the others.
    """

    kind: str
    ordinal: int

    def __str__(self):
        return f"{self.kind} (#{self.ordinal})"


class Servers:
    """Watches a factory's servers. `meet` is called with each exchange, and "before" or "after" the server's work."""

    def __init__(self, factory, *, changes=False, replicas=False):
        self._states = {"est": factory.est, "gateway": factory.gateway}
        self._servers = {"est": factory.est_server, "gateway": factory.gateway_server}
        self._counts = collections.Counter()
        self._known = {name: [(0.0, self._copy(name))] for name in self._states}
        self.exchanges = []
        """When (seconds since 1970) each was answered, and which."""
        self.meet = lambda exchange, moment: None
        if changes or replicas:
            factory.gateway.refused_once = []
        if replicas:
            self._servers["gateway"].respond = self._late(factory.gateway, self._servers["gateway"].respond)
        if changes:
            factory.gateway.refusal = self._moody(factory.gateway, factory.gateway.refusal)
        for name, server in self._servers.items():
            server.respond = self._watched(name, server.respond)

    def begin(self):
        """Reset the counts: a run begins."""
        self.quiet()
        self._counts.clear()
        self.exchanges.clear()
        self._known = {name: [(0.0, self._copy(name))] for name in self._states}

    def quiet(self):
        """Wait until every connection has ended: its client has."""
        for server in self._servers.values():
            for thread in list(server._threads):
                thread.join(_JOIN_SECONDS)

    def known(self, moment=None):
        """Give what the servers knew at that time (seconds since 1970), by default now."""
        if moment is None:
            return {name: self._copy(name) for name in self._states}
        found = {}
        for name, known in self._known.items():
            found[name] = known[bisect.bisect_right(known, moment, key=lambda each: each[0]) - 1][1]
        return found

    def put_back(self, known):
        """Have the servers know that."""
        for name, values in known.items():
            for field, value in values.items():
                setattr(self._states[name], field, copy.copy(value))

    def _watched(self, name, respond):
        def watched(request):
            kind = f"{request.method} {request.path.removeprefix('/.well-known')}"
            if kind == "POST /events" and b"CertRotationCompleted" in request.body:
                kind = PROOF
            self._counts[kind] += 1
            exchange = Exchange(kind, self._counts[kind])
            self.meet(exchange, "before")
            answer = respond(request)
            now = time.time()
            self.exchanges.append((now, exchange))
            self._known[name].append((now, self._copy(name)))
            self.meet(exchange, "after")
            return answer

        return watched

    def _copy(self, name):
        state = self._states[name]
        names = [field.name for field in dataclasses.fields(state)] + ["refused_once"]
        values = {each: getattr(state, each) for each in names if hasattr(state, each)}
        # What they keep grows or is replaced; nothing inside it is changed.
        return {each: copy.copy(value) for each, value in values.items() if isinstance(value, _KEPT)}

    @staticmethod
    def _late(gateway, respond):
        """Be two replicas: one accepts the new certificate, and its answer is lost; the other one learns of it late."""

        def late(request):
            heard = gateway.refused_once
            if not gateway.denied:
                answer = respond(request)
                return Answer.text(503, "busy") if gateway.denied else answer
            if len(heard) >= LATE:
                return respond(request)
            gateway.refused_once = [*heard, request.path]
            with gateway.behind():
                return respond(request)

        return late

    @staticmethod
    def _moody(gateway, refusal):
        """Refuse the new certificate once, then the old one once, then do as always."""

        def moody(request):
            key, done = request.public_key, gateway.refused_once
            mood = {gateway.next_pubkey: "new", gateway.current: "old"}.get(key)
            if key is not None and len(done) < len(MOODS) and mood == MOODS[len(done)]:
                done.append(mood)
                return Answer.text(403, f"The {mood} certificate is not accepted, this once")
            return refusal(request)

        return moody
