"""HTTPS requests: what is tried again, what is final, what an answer may weigh; on loopback, with real TLS."""

import re
import socket
import ssl
import threading
import time
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from email.utils import format_datetime

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st
from requests.structures import CaseInsensitiveDict

from handler.errors import (
    OfflineError,
    PendingError,
    PostponedError,
    RefusedError,
    ServerBusyError,
    ServerRefusedError,
)
from handler.servers import http
from handler.servers.http import Deadline, HttpClient, Limits
from handler.servers.response import MAX_RETRY_AFTER, Answer
from hsm import tls
from hsm.errors import TokenError
from tests.simulators import https_server
from tests.simulators.pki import FactoryPki, certificate_pem, load_identity

PROPERTY = settings(max_examples=60, deadline=None, database=None)
KIND = "application/json"
TEXT = {"Content-Type": "text/plain"}
AT_ONCE = (0.0, 0.0)
FIRST, LAST = datetime(1970, 1, 2), datetime(9998, 1, 1)  # noqa: DTZ001 - hypothesis adds the zone
MOMENTS = st.datetimes(FIRST, LAST, timezones=st.just(UTC))
DATE_LIKE = st.lists(
    st.sampled_from([*"MonJanGMT:+-,. \t\x1f²", "Mon, ", " Jan ", " GMT", "00:", "-0000", "2024", "9" * 20]),
    max_size=12,
).map("".join)
ANYTHING = st.one_of(st.text(max_size=30), DATE_LIKE)
PAST = st.datetimes(FIRST, datetime(2025, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - as above


@dataclass
class World:
    """The factory of these tests and its one device."""

    pki: FactoryPki
    key: ec.EllipticCurvePrivateKey
    folder: object

    @property
    def ca_file(self):
        return self.folder / "root.crt"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    pki = FactoryPki()
    made = World(pki, ec.generate_private_key(ec.SECP256R1()), tmp_path_factory.mktemp("trust"))
    made.certificate = pki.device_certificate(made.key.public_key())
    made.ca_file.write_bytes(pki.ca_bundle_pem())
    return made


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


@contextmanager
def running(world, kind=Server, **state):
    with kind(https_server.ServerState(world.pki, **state)) as server:
        yield server


@pytest.fixture
def server(world):
    with running(world) as started:
        yield started


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
    """Ask once, with a client of its own; `address` is a server or an URL."""
    url = address if isinstance(address, str) else f"{address.url}/path"
    with client_of(world, **options) as client:
        return client.request(method, url, content_type=KIND, body=body)


def headers(**values):
    return CaseInsensitiveDict({name.replace("_", "-"): value for name, value in values.items()})


def answer(body=b"", status=200, **values):
    return Answer("https://gateway.example:8443/device", status, headers(**values), body)


# An answer


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("application/json", "application/json"),
        ("Application/PKCS7-MIME ; smime-type=certs-only", "application/pkcs7-mime"),
        (" text/html;charset=UTF-8", "text/html"),
        (";", ""),
    ],
)
def test_media_type_is_in_lower_case_and_without_parameters(value, expected):
    assert answer(Content_Type=value).content_type == expected


def test_answer_without_headers_has_no_media_type_no_date_and_no_time_to_wait():
    bare = answer()
    assert (bare.content_type, bare.date, bare.retry_after) == ("", None, None)


@PROPERTY
@given(MOMENTS)
def test_every_date_of_a_server_is_read_to_the_second(moment):
    assert answer(Date=format_datetime(moment, usegmt=True)).date == moment.replace(microsecond=0)


@PROPERTY
@given(MOMENTS, st.integers(-23 * 60, 23 * 60).filter(bool))
def test_date_in_another_time_zone_is_the_same_moment(moment, minutes):
    local = moment.replace(microsecond=0).astimezone(timezone(timedelta(minutes=minutes)))
    assert answer(Date=format_datetime(local)).date == local


@PROPERTY
@given(ANYTHING)
def test_text_that_is_no_date_is_no_time(text):
    found = answer(Date=text).date
    assert found is None or found.tzinfo is UTC


def test_date_without_a_zone_is_utc():
    assert answer(Date="Mon, 01 Jan 2024 00:00:00 -0000").date == datetime(2024, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    "value",
    [
        "Mon, 31 Feb 2022 00:00:00 GMT",
        "today",
        "1669058841",
        "Mon, 01 Jan 2024 25:00:00 GMT",
        "Mon, 01 Jan 99999999999999999999 00:00:00 GMT",
    ],
)
def test_impossible_date_is_no_time(value):
    assert answer(Date=value).date is None


@PROPERTY
@given(st.integers(0, 24 * 3600))
def test_seconds_to_wait_are_taken_as_they_are(seconds):
    assert answer(Retry_After=str(seconds)).retry_after == seconds


@PROPERTY
@given(st.integers(1, 24 * 3600))
def test_date_to_wait_for_is_so_many_seconds_away(seconds):
    value = format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)
    assert seconds - 5 <= answer(Retry_After=value).retry_after <= seconds


@PROPERTY
@given(PAST)
def test_date_that_has_passed_asks_for_no_wait(moment):
    assert answer(Retry_After=format_datetime(moment, usegmt=True)).retry_after == 0


@PROPERTY
@given(st.one_of(st.integers(0, 10**300).map(str), MOMENTS.map(lambda moment: format_datetime(moment, usegmt=True))))
def test_time_to_wait_is_never_negative_and_never_longer_than_a_day(value):
    assert 0 <= answer(Retry_After=value).retry_after <= MAX_RETRY_AFTER


@PROPERTY
@given(ANYTHING)
def test_any_other_text_asks_for_no_wait_or_one_within_the_limits(text):
    found = answer(Retry_After=text).retry_after
    assert found is None or 0 <= found <= MAX_RETRY_AFTER


@pytest.mark.parametrize("value", ["", "soon", "-5", "1.5", "1e3", "0x10", "5 s", "0\x1f", "²"])
def test_time_to_wait_that_is_neither_seconds_nor_a_date_is_none(value):
    assert answer(Retry_After=value).retry_after is None


@PROPERTY
@given(st.binary(max_size=5000))
def test_words_of_any_body_are_one_printable_line_of_500_characters_at_most(body):
    words = answer(body).words
    assert len(words) <= 500
    assert words == " ".join(words.split())
    assert not re.search(r"[\x00-\x1f\x7f-\x9f]", words)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", ""),
        (b"\n\t \r\n", ""),
        (b"unknown\r\n  device\x00\x1b[31m", "unknown device [31m"),
        ("clé inconnue".encode(), "clé inconnue"),
        (b"\xff\xfe", ""),
        (b"x" * 500, "x" * 500),
        (b"x" * 501, "x" * 499 + "…"),
    ],
)
def test_words_are_what_a_person_can_read_of_the_body(body, words):
    assert answer(body).words == words


def test_refusal_says_what_was_asked_and_who_answered_what():
    error = answer(b"unknown\ndevice", 403).refusal("the key could not be announced")
    assert str(error) == "the key could not be announced: gateway.example:8443 answered HTTP 403: unknown device"
    assert error.status == 403


def test_refusal_without_words_ends_with_the_status():
    assert str(answer(status=400).refusal("it failed")) == "it failed: gateway.example:8443 answered HTTP 400"


def test_body_is_not_shown_where_an_answer_is_printed():
    assert "secret" not in repr(answer(b"secret"))


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


# What is sent


def test_request_is_sent_once_with_its_body_and_type_and_the_answer_is_given(world, server):
    found = ask(world, server, method="PATCH", body=b"{}")
    assert (found.status, found.body, found.content_type) == (200, b"well", "text/plain")
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
        client.fresh_connection()
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


@pytest.mark.parametrize("digits", [10, 400, 5000])
def test_time_to_wait_of_any_number_of_digits_is_a_day(digits):
    assert answer(Retry_After="9" * digits).retry_after == MAX_RETRY_AFTER


def test_date_to_wait_for_is_taken_by_the_clock_of_the_server():
    found = answer(Date="Mon, 01 Jan 2024 00:00:00 GMT", Retry_After="Mon, 01 Jan 2024 00:01:00 GMT")
    assert found.retry_after == 60


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
    with pytest.raises(PendingError, match=f"no time left to ask {server.netloc}"):
        ask(world, server, seconds=0)
    assert server.state.connections == 0


# Connections that fail


@pytest.mark.parametrize(
    "fault", [{"drop": "before"}, {"drop": "after"}, {"drop": "after", "reset": True}, {"cut": 0}, {"cut": 2}], ids=str
)
def test_connection_that_breaks_is_tried_again_then_pending(world, server, fault):
    server.state.faults.add("*", "*", times=None, **fault)
    with pytest.raises(PendingError, match=rf"^{server.netloc}: ."):
        ask(world, server)
    assert server.asked == 1 + len(AT_ONCE)


def test_connection_that_breaks_once_does_no_harm(world, server):
    server.state.faults.add("*", "*", drop="before")
    assert ask(world, server).status == 200


@pytest.mark.parametrize(
    "says",
    [
        b"",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5, 6\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000 + b"\r\n\r\n",
    ],
    ids=lambda says: repr(says[:40]),
)
def test_answer_that_is_no_http_is_pending(world, says):
    with running(world, RawServer) as server:
        server.says = says
        with pytest.raises(PendingError) as caught:
            ask(world, server, retry_delays=())
    assert str(caught.value).startswith(f"{server.netloc}: ")


def test_port_that_nobody_listens_on_is_pending_in_the_systems_words(world, server):
    server.stop()
    with pytest.raises(PendingError, match=rf"^{server.netloc}: Connection refused$") as caught:
        ask(world, server)
    assert not isinstance(caught.value, OfflineError)


def test_server_that_does_not_speak_tls_is_pending(world):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        netloc = f"127.0.0.1:{listener.getsockname()[1]}"

        def answer_without_tls():
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer_without_tls)
        thread.start()
        with pytest.raises(PendingError, match=rf"^{netloc}: TLS failed: "):
            ask(world, f"https://{netloc}/", retry_delays=())
        thread.join()


def test_server_that_accepts_and_says_nothing_is_pending_within_the_time_for_reading(world, server):
    server.state.faults.add("*", "*", hang=threading.Event())
    with pytest.raises(PendingError, match="accepted the request but did not answer in time"):
        ask(world, server, retry_delays=(), read=0.1)


def test_time_for_reading_is_no_longer_than_what_is_left_of_the_deadline(world, server):
    server.state.faults.add("*", "*", hang=threading.Event())
    begin = time.monotonic()
    with pytest.raises(PendingError):
        ask(world, server, seconds=0.15)
    assert time.monotonic() - begin < 5


def test_handshake_that_hangs_is_pending_within_the_time_for_connecting(world, server):
    server.state.faults.add_connection(hang=threading.Event())
    begin = time.monotonic()
    with pytest.raises(PendingError, match="in time"):
        ask(world, server, retry_delays=(), connect=0.1, read=0.1)
    assert time.monotonic() - begin < 5


def test_body_that_stops_in_the_middle_is_pending_within_the_time_for_reading(world):
    class Stalling(Server):
        def serve(self, request, conversation):
            conversation.connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
            self.stopping.wait()

    with running(world, Stalling) as server, pytest.raises(PendingError, match="in time"):
        ask(world, server, retry_delays=(), read=0.1)


def test_body_that_comes_in_pieces_for_too_long_ends_with_the_deadline(world):
    class Chunks(Server):
        def serve(self, request, conversation):
            conversation.connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            while not self.stopping.wait(0.02):
                conversation.connection.sendall(b"1\r\nx\r\n")

    with running(world, Chunks) as server, pytest.raises(PendingError, match="takes too long to send its answer"):
        ask(world, server, seconds=0.2)


# No network


def test_name_that_cannot_be_resolved_is_offline_at_once(world):
    # An address of a link that is not there: refused by the resolver itself, without asking anybody.
    with pytest.raises(OfflineError, match="cannot be resolved: no network yet, or a wrong name"):
        ask(world, "https://[fe80::1%25missing]:8443/", retry_delays=(50.0,))


def test_address_without_a_route_is_offline_at_once(world):
    # TCP to a broadcast address is "Network is unreachable" on every Linux, without a packet.
    with pytest.raises(OfflineError, match=r"^127\.255\.255\.255:8443 cannot be reached: Network is unreachable$"):
        ask(world, "https://127.255.255.255:8443/", retry_delays=(50.0,))


# Trust


def test_server_of_another_ca_is_named_as_not_trusted_and_not_asked_again(world, server):
    other = FactoryPki()
    server.state.server_identity = other.server_identity()
    with pytest.raises(PendingError, match=r"not trusted .*look at import\.tls_cacert_path, the clock"):
        ask(world, server)
    assert (server.asked, server.state.connections) == (0, 0)


def test_server_whose_certificate_names_another_host_is_not_trusted(world, server):
    server.state.server_identity = world.pki.server_identity(["gateway.example"])
    with pytest.raises(PendingError, match="IP address mismatch"):
        ask(world, server)
    assert server.asked == 0


def test_server_whose_certificate_has_expired_is_not_trusted(world, server):
    server.state.server_identity = world.pki.server_identity(begins=datetime.now(UTC) - timedelta(days=400))
    with pytest.raises(PendingError, match="expired"):
        ask(world, server)


def test_intermediate_ca_alone_is_enough_to_trust(world, server, tmp_path):
    intermediate = world.pki.authority("Intermediate", issuer=world.pki.server_root)
    server.state.server_identity = world.pki.server_identity(issuer=intermediate)
    (tmp_path / "ca").write_bytes(certificate_pem(intermediate.certificate))
    assert ask(world, server, ca_file=tmp_path / "ca").status == 200


def test_nothing_of_the_environment_is_trusted_or_asked(world, server, monkeypatch, tmp_path):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password secret\n")
    (tmp_path / "netrc").chmod(0o600)
    (tmp_path / "nothing.crt").write_bytes(b"")
    for name, value in {
        "HTTPS_PROXY": "http://127.0.0.1:1",
        "ALL_PROXY": "http://127.0.0.1:1",
        "NETRC": str(tmp_path / "netrc"),
        "REQUESTS_CA_BUNDLE": str(tmp_path / "nothing.crt"),
        "CURL_CA_BUNDLE": str(tmp_path / "nothing.crt"),
    }.items():
        monkeypatch.setenv(name, value)
    assert ask(world, server).status == 200
    assert "Authorization" not in server.state.requests[0].headers


def test_tls_is_1_2_at_least_and_names_are_looked_for_in_the_subject_alternative_name_only(world):
    made = []
    with client_of(world, authenticate=made.append):
        (context,) = made
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert not context.hostname_checks_common_name


def test_ca_file_that_is_missing_is_an_error_before_any_request(world, tmp_path):
    with pytest.raises(FileNotFoundError), client_of(world, ca_file=tmp_path / "missing"):
        pass


# The client certificate


def test_alert_about_the_certificate_is_final_and_has_no_status(world, server):
    server.state.faults.refuse_certificate(world.certificate)
    with pytest.raises(ServerRefusedError, match=r"refuses the certificate: TLS alert certificate revoked$") as caught:
        ask(world, server)
    assert caught.value.status is None
    server.stop()  # until the server's thread has noted it, too
    assert len(server.state.refused_handshakes) == 1


def test_alert_about_a_missing_certificate_is_final(world, server):
    with pytest.raises(ServerRefusedError, match="TLS alert certificate required"):
        ask(world, server, authenticate=lambda context: None)


def test_alert_about_anything_else_is_pending(world, server):
    def only_tls_1_3(context):
        context.minimum_version = ssl.TLSVersion.TLSv1_3

    server.state.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(PendingError, match="TLS failed: TLSV1_ALERT_PROTOCOL_VERSION"):
        ask(world, server, authenticate=only_tls_1_3)


@pytest.mark.parametrize("asks", [ssl.CERT_REQUIRED, ssl.CERT_OPTIONAL, ssl.CERT_NONE])
def test_it_is_known_whether_a_server_asked_for_the_certificate(world, asks):
    with running(world, client_certificate=asks) as server, client_of(world) as client:
        assert client.certificate_requested is False
        client.request("GET", server.url, content_type=KIND)
        assert client.certificate_requested is (asks != ssl.CERT_NONE)


def der(world):
    return world.certificate.public_bytes(Encoding.DER)


class FailingKey(ec.EllipticCurvePrivateKey):
    """A key outside of files that cannot sign."""

    def __init__(self, key, error):
        self._key = key
        self._error = error

    def sign(self, data, signature_algorithm):
        raise self._error

    def public_key(self):
        return self._key.public_key()

    @property
    def curve(self):
        return self._key.curve

    @property
    def key_size(self):
        return self._key.key_size

    def exchange(self, algorithm, peer_public_key):
        raise NotImplementedError

    def private_numbers(self):
        raise NotImplementedError

    def private_bytes(self, encoding, format, encryption_algorithm):  # noqa: A002 - cryptography's name
        raise NotImplementedError

    def __copy__(self):
        return self

    def __deepcopy__(self, memo):
        return self


def test_token_that_cannot_sign_ends_the_call_with_the_tokens_own_error(world, server):
    error = TokenError("the token was removed")
    key = FailingKey(world.key, error)
    with pytest.raises(TokenError) as caught:
        ask(world, server, authenticate=lambda context: tls.use_private_key(context, der(world), key))
    assert caught.value is error
    assert server.asked == 0


def test_mistake_inside_a_signature_is_not_taken_for_trouble_of_the_network(world, server):
    mistake = ZeroDivisionError()
    key = FailingKey(world.key, mistake)
    with pytest.raises(RuntimeError, match="the private key failed inside a TLS handshake") as caught:
        ask(world, server, authenticate=lambda context: tls.use_private_key(context, der(world), key))
    assert caught.value.__cause__ is mistake


# The weight of an answer


def test_answer_of_the_greatest_size_is_given_whole(world, server):
    server.answers = (https_server.Answer(200, b"x" * 1000, TEXT),)
    assert ask(world, server, answer=1000).body == b"x" * 1000


def test_answer_of_one_byte_more_is_refused_with_its_status(world, server):
    server.answers = (https_server.Answer(201, b"x" * 1001, TEXT),)
    with pytest.raises(ServerRefusedError, match="an answer of more than 1000 bytes") as caught:
        ask(world, server, answer=1000)
    assert caught.value.status == 201


def test_compressed_bomb_is_refused_by_the_size_that_it_unfolds_to(world):
    packer = zlib.compressobj(wbits=31)
    bomb = packer.compress(bytes(5_000_000)) + packer.flush()
    with running(world, RawServer) as server:
        server.says = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb) + bomb
        with pytest.raises(ServerRefusedError, match="more than 100000 bytes"):
            ask(world, server, answer=100_000)


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
    with pytest.raises(RefusedError, match=f"{server.netloc} redirects to .*another origin is not followed") as caught:
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
    with pytest.raises(ServerRefusedError, match="redirects to what is no address") as caught:
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
