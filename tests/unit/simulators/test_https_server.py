"""Faults of the simulated servers, and how they start and stop."""

import http.client
import socket
import threading
import time

import pytest

from tests.simulators.client import ask_over
from tests.simulators.est_server import EstServer, EstState
from tests.simulators.relay import Relay

from .asking import an_event

# Faults


def test_dropped_before_the_work_leaves_nothing_done(gateway, client):
    gateway.state.faults.add("POST", "/events", drop="before")
    with pytest.raises(http.client.RemoteDisconnected):
        client.send_json(gateway, "POST", "/events", [an_event()])
    assert gateway.state.events == []
    assert client.send_json(gateway, "POST", "/events", [an_event()]).status == 200
    assert [request.status for request in gateway.state.requests] == [None, 200]


def test_dropped_after_the_work_has_done_it(est, client):
    est.state.faults.add("POST", "/simplereenroll", drop="after")
    with pytest.raises(http.client.RemoteDisconnected):
        client.reenrol(est)
    assert len(est.state.issued) == 1


def test_reset_is_a_reset(est, client):
    est.state.faults.add("*", "*", reset=True)
    with pytest.raises(ConnectionResetError):
        client.reenrol(est)
    assert est.state.issued == []


def test_status_stands_for_the_answer_with_or_without_the_work(est, client):
    est.state.faults.add("POST", "*", status=503, headers={"Retry-After": "7"}, body="later")
    est.state.faults.add("POST", "*", status=502, work=True)
    reply = client.reenrol(est)
    assert (reply.status, reply.headers["Retry-After"], reply.text) == (503, "7", "later")
    assert est.state.issued == []
    assert client.reenrol(est).status == 502
    assert len(est.state.issued) == 1


def test_fault_waits_for_its_turn_and_ends(est, client):
    fault = est.state.faults.add("GET", "/cacerts", status=500, skip=1, times=2)
    statuses = [client.ask(est, "GET", "/.well-known/est/cacerts").status for _ in range(4)]
    assert statuses == [200, 500, 500, 200]
    assert fault.used == 2


def test_captive_portal_answers_everything_with_a_web_page(gateway, client):
    gateway.state.faults.captive_portal(times=None)
    for path in ("/config", "/other"):
        reply = client.ask(gateway, "GET", path)
        assert (reply.status, reply.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    gateway.state.faults.clear()
    assert client.ask(gateway, "GET", "/config").status == 204


def test_answer_can_be_cut_off_or_huge(est, client):
    est.state.faults.add("GET", "/cacerts", cut=10)
    est.state.faults.add("GET", "/cacerts", huge=2_000_000)
    with pytest.raises(http.client.IncompleteRead):
        client.ask(est, "GET", "/.well-known/est/cacerts")
    assert len(client.ask(est, "GET", "/.well-known/est/cacerts").body) == 2_000_000


def test_delay_comes_before_the_answer(est, client):
    est.state.faults.add("GET", "/cacerts", delay=0.05)
    started = time.monotonic()
    assert client.ask(est, "GET", "/.well-known/est/cacerts").status == 200
    assert time.monotonic() - started >= 0.05


def test_server_that_hangs_says_nothing_until_told_to(est, client):
    until = threading.Event()
    est.state.faults.add("GET", "/cacerts", hang=until)
    with pytest.raises(TimeoutError):
        client.ask(est, "GET", "/.well-known/est/cacerts", timeout=0.1)
    until.set()


def test_connections_can_be_spoilt_before_tls(est, client):
    est.state.faults.add_connection(hang=60.0)
    est.state.faults.add_connection(reset=True)
    with pytest.raises(TimeoutError):
        client.ask(est, "GET", "/.well-known/est/cacerts", timeout=0.1)
    with pytest.raises(ConnectionResetError):
        client.ask(est, "GET", "/.well-known/est/cacerts")
    assert client.ask(est, "GET", "/.well-known/est/cacerts").status == 200
    assert est.state.connections == 1


# Starting and stopping


class Never(threading.Event):
    """An event that nobody sets; it tells when somebody begins to wait for it."""

    def __init__(self):
        super().__init__()
        self.awaited = threading.Event()

    def wait(self, timeout=None):
        self.awaited.set()
        return super().wait(timeout)


def test_stopping_ends_idle_hanging_and_half_open_connections_at_once(pki, client):
    threads = threading.active_count()
    server = EstServer(EstState(pki)).start()
    never = Never()
    server.state.faults.add("GET", "/cacerts", hang=never)
    idle, hanging = client.connect(server), client.connect(server)
    ask_over(idle, "GET", "/.well-known/est/csrattrs")
    hanging.request("GET", "/.well-known/est/cacerts")
    with socket.create_connection((server.host, server.port)):
        assert never.awaited.wait(10.0)
        started = time.monotonic()
        server.stop()
    assert time.monotonic() - started < 2.0
    assert threading.active_count() == threads
    idle.close()
    hanging.close()


def test_stopped_server_refuses_connections_and_comes_back_on_its_port(pki, client):
    server = EstServer(EstState(pki)).start()
    url = server.url
    server.stop()
    with pytest.raises(ConnectionRefusedError):
        client.reenrol(server)
    with server:
        assert server.url == url
        assert client.reenrol(server).status == 201


def test_failure_of_a_simulator_itself_comes_out(pki, client):
    server = EstServer(EstState(pki, misissue="no such kind")).start()
    with pytest.raises(http.client.RemoteDisconnected):
        client.reenrol(server)
    with pytest.raises(KeyError):
        server.stop()


def test_relay_makes_the_way_longer(est, client):
    with Relay(est.port, delay=0.02) as relay:
        started = time.monotonic()
        assert client.reenrol(relay).status == 201
        # One round trip each for TCP, TLS 1.3 and the request.
        assert 0.12 <= time.monotonic() - started < 1.0
    assert relay.connections == 1
    assert relay.bytes_to_server > 1000 < relay.bytes_to_client
