"""HTTPS requests: what is sent and tried again, what is final, what an answer may weigh; on loopback, with real TLS."""

import contextlib
import socket
import threading
import time
import zlib
from datetime import UTC, datetime, timedelta

import pytest

from handler.errors import (
    AnswerError,
    ConnectionLostError,
    PendingError,
    PostponedError,
    RefusedError,
    ServerBusyError,
    ServerRefusedError,
)
from handler.servers import http
from handler.servers.http import HttpClient, Limits
from handler.servers.transport import Deadline
from hsm.stopwatch import TOKENS
from tests.simulators import https_server
from tests.simulators.pki import load_identity

from .loopback import InterimServer, RawServer, Server, ask, client_of, running

KIND = "application/json"
TEXT = {"Content-Type": "text/plain"}
AT_ONCE = (0.0, 0.0)


# The limits


def test_limits_are_those_of_the_reference_client_where_none_are_given():
    assert Limits().retry_delays == (1, 2, 5, 13, 30)
    assert (Limits().total, Limits().connect, Limits().read) == (120, 10, 30)


def test_deadline_counts_down_to_nothing():
    deadline = Deadline(60)
    assert 0 < deadline.remaining <= 60
    assert deadline.remaining <= 60
    assert Deadline(0).remaining == 0
    assert Deadline(-1).remaining == 0


def test_what_a_token_takes_does_not_count_against_the_time_for_the_network():
    deadline = Deadline(60)
    TOKENS.start()
    begun, before = time.monotonic(), deadline.remaining
    while time.monotonic() < begun + 0.05:
        pass
    assert abs(before - deadline.remaining) < 0.01
    TOKENS.stop()
    left, begun = deadline.remaining, time.monotonic()
    while time.monotonic() < begun + 0.05:
        pass
    assert deadline.remaining <= left - 0.05


# What is sent


def test_request_is_sent_once_with_its_body_and_type_and_the_answer_is_given(world, server):
    found = ask(world, server, method="PATCH", body=b"{}")
    assert (found.status, found.body) == (200, b"well")
    assert found.url == f"{server.url}/path"
    (request,) = server.state.requests
    assert (request.method, request.path, request.body) == ("PATCH", "/path", b"{}")
    assert (request.serial, request.chain_length) == (world.certificate.serial_number, 1)
    assert request.headers["Content-Type"] == KIND
    assert request.headers["User-Agent"] == http.USER_AGENT
    assert request.headers["Accept-Encoding"] == "identity"


def test_client_without_limits_of_its_own_has_the_usual_ones(world, server):
    client = HttpClient(
        world.ca_file, lambda context: load_identity(context, world.key, world.certificate), Deadline(9)
    )
    assert client.request("GET", server.url, content_type=KIND).status == 200
    client.close()


def test_requests_share_one_connection_until_a_fresh_one_is_asked_for(world, server):
    with client_of(world) as client:
        for _ in range(2):
            client.request("GET", server.url, content_type=KIND)
        client.close()
        client.request("GET", server.url, content_type=KIND)
    assert [request.connection for request in server.state.requests] == [1, 1, 2]


def test_answer_of_another_kind_than_asked_for_is_still_given(world):
    with running(world, RawServer) as server:
        server.says = b"HTTP/1.0 418 I'm a teapot\r\n\r\nshort and stout"
        found = ask(world, server)
    assert (found.status, found.body) == (418, b"short and stout")


@pytest.mark.parametrize("status", [200, 201, 202, 204, 304, 400, 401, 403, 404, 405, 409, 413])
def test_status_that_will_not_pass_is_left_to_the_caller(world, server, status):
    server.answers = (https_server.Answer(status, b"x", TEXT),)
    assert ask(world, server).status == status
    assert server.asked == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_web_page_of_a_refusal_is_no_captive_portal(world, server, status):
    server.answers = (https_server.Answer(status, b"<html>", {"Content-Type": "text/html"}),)
    assert ask(world, server).status == status


# What is tried again


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 599])
def test_status_that_may_pass_is_tried_again_as_often_as_there_are_delays(world, server, status):
    server.answers = (https_server.Answer.text(status, "busy"),)
    with pytest.raises(PendingError, match=rf"answered HTTP {status}: busy$") as caught:
        ask(world, server)
    assert type(caught.value) is ServerBusyError
    assert server.asked == 1 + len(AT_ONCE)


def test_answer_after_failures_is_the_one_given(world, server):
    server.answers = (https_server.Answer(503), https_server.Answer(502), https_server.Answer.text(200, "at last"))
    assert ask(world, server).body == b"at last"
    assert [request.body for request in server.state.requests] == [b""] * 3


def test_every_try_sends_the_same_body(world, server):
    server.answers = (https_server.Answer(500), https_server.Answer(200))
    ask(world, server, method="POST", body=b"csr")
    assert [request.body for request in server.state.requests] == [b"csr"] * 2


def test_web_page_of_a_failure_is_not_quoted(world, server):
    server.answers = (https_server.Answer(502, b"<html>Bad Gateway</html>", {"Content-Type": "text/html"}),)
    with pytest.raises(PendingError, match=r"answered HTTP 502$"):
        ask(world, server, retry_delays=())


def test_delay_that_does_not_fit_the_deadline_ends_the_call_at_once_and_ties_nobody(world, server):
    server.answers = (https_server.Answer(503),)
    with pytest.raises(PendingError, match="HTTP 503") as caught:
        ask(world, server, seconds=10, retry_delays=(0.0, 50.0))
    assert server.asked == 2
    assert caught.value.not_before is None  # nobody asked for a wait


def test_time_that_a_server_asks_for_counts_where_it_is_longer_than_the_delay(world, server):
    server.answers = (https_server.Answer(503, headers={"Retry-After": "40"}),)
    with pytest.raises(PendingError) as caught:
        ask(world, server)
    assert server.asked == 1
    assert abs(caught.value.not_before - datetime.now(UTC) - timedelta(seconds=40)) < timedelta(seconds=5)


def test_delay_counts_where_it_is_longer_than_the_time_that_a_server_asks_for(world, server):
    server.answers = (https_server.Answer(503, headers={"Retry-After": "1"}),)
    with pytest.raises(PendingError) as caught:
        ask(world, server, retry_delays=(0.0, 70.0))
    assert server.asked == 2
    assert abs(caught.value.not_before - datetime.now(UTC) - timedelta(seconds=70)) < timedelta(seconds=5)


def test_time_that_a_server_asks_for_after_the_last_delay_is_still_known_to_the_caller(world, server):
    server.answers = (https_server.Answer(503), https_server.Answer(503, headers={"Retry-After": "3600"}))
    with pytest.raises(PendingError) as caught:
        ask(world, server, retry_delays=(0.0,))
    assert caught.value.not_before > datetime.now(UTC) + timedelta(minutes=59)


def test_time_that_leaves_none_to_spread_it_is_not_waited_for(world, server):
    server.answers = (https_server.Answer(503, headers={"Retry-After": "40"}),)
    begin = time.monotonic()
    with pytest.raises(PostponedError) as caught:
        ask(world, server, seconds=60)
    assert time.monotonic() - begin < 20
    assert abs(caught.value.not_before - datetime.now(UTC) - timedelta(seconds=40)) < timedelta(seconds=5)


def test_wait_ends_when_the_call_is_stopped(world, server):
    server.answers = (https_server.Answer(503),)
    stop = threading.Event()
    timer = threading.Timer(0.05, stop.set)
    timer.start()
    begin = time.monotonic()
    with pytest.raises(PendingError, match="HTTP 503"):
        ask(world, server, seconds=60, stop=stop, retry_delays=(50.0,))
    assert time.monotonic() - begin < 20
    assert server.asked == 1
    timer.join()


def test_call_that_is_stopped_already_waits_for_nothing(world):
    stop = threading.Event()
    stop.set()
    with client_of(world, stop=stop) as client, pytest.raises(PendingError, match="busy") as caught:
        client.wait(0.0, PendingError("busy"))
    assert caught.value.not_before is not None


def test_wait_that_fits_the_deadline_just_ends(world):
    with client_of(world) as client:
        client.wait(0.0, PendingError("busy"))


def test_no_request_is_sent_when_the_time_is_up(world, server):
    with pytest.raises(PendingError, match=f"{server.netloc}: GET /path: no time is left"):
        ask(world, server, seconds=0)
    assert server.state.connections == 0


# The weight of an answer


def test_answer_of_the_greatest_size_is_given_whole(world, server):
    server.answers = (https_server.Answer(200, b"x" * 1000, TEXT),)
    assert ask(world, server, answer=1000).body == b"x" * 1000


def test_answer_of_one_byte_more_is_refused_with_its_status(world, server):
    server.answers = (https_server.Answer(201, b"x" * 1001, TEXT),)
    with pytest.raises(ServerRefusedError, match="its answer has more than 1000 bytes") as caught:
        ask(world, server, answer=1000)
    assert caught.value.status == 201


def test_answer_that_only_promises_more_is_refused_at_once(world):
    class Promise(Server):
        def serve(self, request, conversation):
            conversation.connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n")
            self.stopping.wait()

    with running(world, Promise) as server, pytest.raises(ServerRefusedError, match="more than 1000 bytes"):
        ask(world, server, answer=1000)


@pytest.mark.parametrize("encoding", ["gzip", "gzip, gzip", "br", "nonsense"])
def test_answer_that_is_encoded_is_none_and_is_not_unpacked(world, encoding):
    packer = zlib.compressobj(wbits=31)
    bomb = packer.compress(bytes(5_000_000)) + packer.flush()
    with running(world, RawServer) as server:
        server.says = b"HTTP/1.1 200 OK\r\nContent-Encoding: %s\r\n\r\n" % encoding.encode() + bomb
        with pytest.raises(AnswerError, match=f"^{server.netloc}: GET /path: its answer is encoded as {encoding}"):
            ask(world, server, retry_delays=())


HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
ENDLESS = {
    "a line of the chunk's size": CHUNKED + b"0" * 3_000_000,
    "an extension of a chunk": CHUNKED + b"5;" + b"x" * 3_000_000,
    "a trailer": CHUNKED + b"5\r\nhello\r\n0\r\n" + b"x" * 3_000_000,
    "trailers": CHUNKED + b"5\r\nhello\r\n0\r\n" + b"x: y\r\n" * 500_000,
    "chunks of a byte": CHUNKED + b"1\r\nx\r\n" * 500_000,
    "interim answers": b"HTTP/1.1 102 Processing\r\n\r\n" * 100_000,
}


@pytest.mark.parametrize("name", ENDLESS)
def test_answer_without_end_is_read_so_far_and_no_further(world, name):
    with running(world, RawServer) as server:
        server.says = ENDLESS[name]
        with pytest.raises((AnswerError, ServerRefusedError), match=f"^{server.netloc}"):
            ask(world, server, answer=100_000, retry_delays=())


@pytest.mark.parametrize(
    "says",
    [
        CHUNKED + b"-5\r\nhello\r\n0\r\n\r\n",
        CHUNKED + b"99999999999999999999999\r\nhello",
        HEAD + b"X: y\r\n" * 200 + b"\r\n",
        HEAD + b"X: " + b"y" * 70_000 + b"\r\n\r\n",
        HEAD + b"Content-Length: -5\r\n\r\nhello",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n",
        b"\x00" * 1000,
    ],
    ids=lambda says: repr(says[-30:]),
)
def test_answer_that_makes_no_sense_says_so_and_is_not_asked_for_again_where_it_costs(world, says):
    with running(world, RawServer) as server:
        server.says = says
        with client_of(world) as client, contextlib.suppress(AnswerError, ConnectionLostError):
            found = client.request("POST", server.url, content_type=KIND, body=b"csr", costly=True)
            assert found.body in {b"", b"hello"}
    assert server.asked == 1 or says.endswith(b"hello")


@pytest.mark.parametrize("size", [b"-5", b"-1\r\nhello\r\n0", b"zz", b"0x", b"five; x", b"\xff"], ids=repr)
def test_a_chunk_of_an_invalid_size_costs_one_request_where_the_server_hangs_up_after_it_too(world, size):
    class HangsUp(Server):
        requests = 0

        def serve(self, request, conversation):
            self.requests += 1
            conversation.connection.sendall(CHUNKED + b"5\r\nhello\r\n" + size + b"\r\n\r\n")
            conversation.connection.shutdown(socket.SHUT_RDWR)

    invalid = pytest.raises(AnswerError, match=r"a chunk of an invalid size|read length must be non-negative")
    with running(world, HangsUp) as server, client_of(world) as client, invalid:
        client.request("POST", server.url, content_type=KIND, body=b"csr", costly=True)
    assert server.requests == 1


# Interim answers


INTERIM = {
    100: b"HTTP/1.1 100 Continue\r\n\r\n",
    102: b"HTTP/1.1 102 Processing\r\n\r\n",
    103: b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\nX: y\r\n\r\n",
    199: b"HTTP/1.1 199 Whatever\r\nContent-Length: 5\r\n\r\n",
}


@pytest.mark.parametrize("status", INTERIM)
@pytest.mark.parametrize("times", [1, 3, 16])
def test_interim_answers_are_read_past(world, status, times):
    with running(world, InterimServer) as server:
        server.interim = INTERIM[status] * times
        with client_of(world) as client:
            for number in range(3):
                assert client.request("GET", f"{server.url}/{number}", content_type=KIND).body == b"%d" % number
    assert {request.connection for request in server.state.requests} == {1}


def test_too_many_interim_answers_are_no_answer(world):
    with running(world, InterimServer) as server:
        server.interim = INTERIM[102] * 17
        with pytest.raises(AnswerError, match="HTTP 102 where an answer was expected"):
            ask(world, server, retry_delays=())


# What is an answer


@pytest.mark.parametrize("kind", ["text/html", "application/json", ""])
def test_content_tells_what_an_answer_is_and_not_its_type(world, server, kind):
    server.answers = (https_server.Answer(200, b'{"a": 1}', {"Content-Type": kind}),)
    assert ask(world, server).body == b'{"a": 1}'


PAGES = [b"<html>", b"  \r\n<!DOCTYPE html>", b"\xef\xbb\xbf<?xml", "<html>".encode("utf-16"), b"\r\n" * 60 + b"<html>"]


@pytest.mark.parametrize("body", PAGES)
@pytest.mark.parametrize("kind", ["text/html", "application/json"])
def test_markup_is_no_answer_whatever_its_type(world, server, body, kind):
    server.answers = (https_server.Answer(200, body, {"Content-Type": kind}),)
    with pytest.raises(PendingError, match="gave a web page"):
        ask(world, server)
    assert server.asked == 1 + len(AT_ONCE)


# Redirects


@pytest.mark.parametrize("status", [301, 302, 307, 308])
@pytest.mark.parametrize("absolute", [True, False])
def test_redirect_within_the_origin_is_followed_with_the_same_method_and_body(world, server, status, absolute):
    target = f"{server.url}/new" if absolute else "/new"
    server.answers = (https_server.Answer(status, headers={"Location": target}), https_server.Answer.text(200, "here"))
    found = ask(world, server, method="POST", body=b"csr")
    assert (found.body, found.url) == (b"here", f"{server.url}/new")
    assert server.state.calls() == [("POST", "/path"), ("POST", "/new")]
    assert [request.body for request in server.state.requests] == [b"csr"] * 2


def test_redirect_is_followed_once_and_the_next_one_left_to_the_caller(world, server):
    server.answers = (https_server.Answer(302, headers={"Location": "/again"}),)
    assert ask(world, server).status == 302
    assert server.asked == 2


def test_redirect_by_303_would_change_the_method_and_is_not_followed(world, server):
    server.answers = (https_server.Answer(303, headers={"Location": "/new"}),)
    assert ask(world, server, method="POST").status == 303
    assert server.asked == 1


def test_redirect_to_a_server_in_trouble_is_tried_again_from_the_start(world, server):
    moved = https_server.Answer(302, headers={"Location": "/new"})
    server.answers = (moved, https_server.Answer(503), moved, https_server.Answer(200))
    assert ask(world, server).status == 200
    assert [path for _, path in server.state.calls()] == ["/path", "/new"] * 2


@pytest.mark.parametrize(
    "target", ["https://localhost:{port}/", "https://127.0.0.1/", "http://127.0.0.1:{port}/", "https://127.0.0.1:1/"]
)
def test_redirect_to_another_origin_is_refused_and_told(world, server, target):
    server.answers = (https_server.Answer(302, headers={"Location": target.format(port=server.port)}),)
    with pytest.raises(
        RefusedError, match=f"{server.netloc}: GET /[a-z]*: it redirects to .*another origin is not followed"
    ) as caught:
        ask(world, server)
    assert caught.value.status == 302
    assert server.asked == 1


def test_redirect_tells_nothing_of_the_path_and_query_that_it_names(world, server):
    server.answers = (https_server.Answer(302, headers={"Location": "https://evil.example/x?token=secret"}),)
    with pytest.raises(ServerRefusedError, match=r"redirects to https://evil\.example: ") as caught:
        ask(world, server)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("target", ["https://[bad/", "https://127.0.0.1:99999/", "https://127.0.0.1:abc/"])
def test_redirect_to_what_is_no_address_is_refused(world, server, target):
    server.answers = (https_server.Answer(302, headers={"Location": target}),)
    with pytest.raises(ServerRefusedError, match="redirects to an invalid address") as caught:
        ask(world, server)
    assert caught.value.status == 302


def test_redirect_that_is_not_utf_8_is_left_to_the_server(world, server):
    server.answers = (https_server.Answer(302, headers={"Location": "/\x80\xff"}), https_server.Answer(404))
    assert ask(world, server).status == 404


def test_body_of_a_redirect_is_not_read_beyond_the_limit(world):
    class Heavy(Server):
        sent = 0

        def serve(self, request, conversation):
            head = b"HTTP/1.1 302 Found\r\nLocation: /new\r\nContent-Length: 64000000\r\n\r\n"
            conversation.connection.sendall(head)
            for _ in range(64):
                conversation.connection.sendall(bytes(1_000_000))
                self.sent += 1

    with running(world, Heavy) as server, pytest.raises(ServerRefusedError, match="more than 1000 bytes") as caught:
        ask(world, server, answer=1000)
    assert caught.value.status == 302
    assert server.sent < 64


def test_server_that_asks_to_come_back_at_once_is_asked_no_more_often_than_any_other(world, server):
    server.answers = (https_server.Answer(503, headers={"Retry-After": "0"}),)
    with pytest.raises(PendingError, match="HTTP 503"):
        ask(world, server, seconds=0.3)
    assert server.asked == 1 + len(AT_ONCE)


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", b"HTTP/1.1 200 OK\r\nX: "])
def test_answer_that_drips_byte_by_byte_ends_with_the_deadline(world, head):
    class Drip(Server):
        def serve(self, request, conversation):
            conversation.connection.sendall(head)
            while not self.stopping.wait(0.02):
                conversation.connection.sendall(b"x")

    begin = time.monotonic()
    with running(world, Drip) as server, pytest.raises(PendingError):
        ask(world, server, seconds=0.2, retry_delays=())
    assert time.monotonic() - begin < 5


def test_last_byte_that_drips_is_not_waited_for_beyond_the_deadline(world):
    class Drip(Server):
        def serve(self, request, conversation):
            conversation.connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
            while not self.stopping.wait(1.5):
                conversation.connection.sendall(b"x")

    begin = time.monotonic()
    with running(world, Drip) as server, pytest.raises(PendingError):
        ask(world, server, seconds=2.0, read=2.0, retry_delays=())
    assert time.monotonic() - begin < 2.7
