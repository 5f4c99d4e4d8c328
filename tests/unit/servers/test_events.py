"""Events: their form, and their delivery from the journal: in order, each at least once, none lost."""

import json
import threading
import uuid
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from handler.errors import OfflineError, PendingError, ServerRefusedError, harmless
from handler.journal.events import MAX_DETAILS, MAX_EVENTS, STARTED, EventFactory
from handler.journal.journal import Journal
from handler.journal.pending import COMPLETED, JOURNAL
from handler.servers.delivery import BATCH, Delivery, deliver
from handler.servers.gateway import GatewayClient
from handler.servers.http import HttpClient, Limits
from handler.servers.transport import Deadline
from hsm.errors import PinError, TokenError
from tests.simulators.gateway import MAX_EVENTS as MAX_BODY
from tests.simulators.gateway import Gateway, GatewayState
from tests.simulators.gateway_checks import check_events
from tests.simulators.pki import FactoryPki, load_identity

PROPERTY = settings(max_examples=25, deadline=None, database=None)
ID = "certs-1669058841"
TARGET = ("raspberrypi4-64-lmp-7", "7")
PATIENCE = 10.0
FACTORY = EventFactory(ID, TARGET)


class World:
    """A factory and a device in it."""

    def __init__(self, folder):
        self.pki = FactoryPki()
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = self.pki.device_certificate(self.key.public_key())
        self.ca_file = folder / "root.crt"
        self.ca_file.write_bytes(self.pki.ca_bundle_pem())

    @contextmanager
    def running(self):
        state = GatewayState(self.pki)
        state.register(self.certificate)
        with Gateway(state) as server:
            yield server

    def client(self, server, stop=None, retry_delays=()):
        http = HttpClient(
            self.ca_file,
            lambda context: load_identity(context, self.key, self.certificate),
            Deadline(30),
            Limits(retry_delays=retry_delays),
            stop,
        )
        return GatewayClient(server.url, f"{server.url}/config", http)

    def deliver(self, journal, server):
        """Deliver over its own connection."""
        client = self.client(server)
        try:
            deliver(journal, client)
        finally:
            client.http.close()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("trust"))


@pytest.fixture
def server(world):
    with world.running() as started:
        yield started


@pytest.fixture
def journal(tmp_path):
    return Journal(tmp_path)


@pytest.fixture
def begin(world, server, journal):
    made = []

    def begin(**limits):
        made.append(Delivery(journal, lambda stop: world.client(server, stop, **limits)))
        return made[-1]

    yield begin
    for each in made:
        each.end(PATIENCE)


@pytest.fixture
def ended():
    """Give a function that tells whether no delivery runs any more, having waited for it."""

    def ask():
        for thread in threading.enumerate():
            if thread.name == "events":
                thread.join(PATIENCE)
        return not any(thread.name == "events" for thread in threading.enumerate())

    return ask


def events(count, **details):
    return [FACTORY.make(f"step {number}", **details) for number in range(count)]


def ids(found):
    return [event["id"] for event in found]


def read_again(folder):
    journal = Journal(folder)
    journal.load()
    return journal


# The form of an event


def test_event_of_a_success_has_the_form_that_the_gateway_takes():
    before = datetime.now(UTC).replace(microsecond=0)
    event = FACTORY.make(STARTED)
    check_events([event])
    assert event["event"] == {"correlationId": ID, "success": True, "targetName": TARGET[0], "version": TARGET[1]}
    assert event["eventType"] == {"id": STARTED, "version": 0}
    assert before <= datetime.fromisoformat(event["deviceTime"]) <= before + timedelta(seconds=5)
    assert uuid.UUID(event["id"]).version == 4


def test_event_of_a_failure_gives_its_reason():
    event = FACTORY.make(COMPLETED, failure="no token")
    check_events([event])
    assert (event["event"]["success"], event["event"]["details"]) == (False, "no token")


def test_event_of_a_success_can_have_a_note():
    event = FACTORY.make(COMPLETED, note="found done")
    assert (event["event"]["success"], event["event"]["details"]) == (True, "found done")


def test_failure_comes_before_a_note():
    assert FACTORY.make("x", failure="no token", note="found done")["event"]["details"] == "no token"


def test_failure_without_words_is_a_failure_without_details():
    event = FACTORY.make("x", failure="")["event"]
    assert event["success"] is False
    assert "details" not in event


def test_every_event_has_an_id_of_its_own():
    assert len(set(ids(events(100)))) == 100


@PROPERTY
@given(st.text(max_size=3 * MAX_DETAILS))
def test_details_are_the_beginning_of_what_was_said_and_no_longer_than_the_limit(text):
    details = FACTORY.make("x", failure=text)["event"].get("details", "")
    assert len(details) <= MAX_DETAILS
    said = harmless(text)
    assert details == said or (len(said) > MAX_DETAILS and details == said[: MAX_DETAILS - 1] + "…")


def test_greatest_batch_is_below_what_a_gateway_takes():
    batch = [FACTORY.make("Update device specific configuration", failure="x" * 2000) for _ in range(BATCH)]
    assert len(json.dumps(batch)) < MAX_BODY


@pytest.mark.parametrize("character", ["x", "ä", "😀", '"'])
def test_many_long_events_are_taken_whatever_they_are_written_in(world, server, journal, character):
    made = events(BATCH + 1, failure=character * MAX_DETAILS)
    journal.record(None, *made)
    world.deliver(journal, server)
    assert server.state.events == made
    assert all(len(request.body) < MAX_BODY for request in server.state.requests)


# Delivery in the call's own thread


def test_nothing_is_sent_where_nothing_waits(world, server, journal):
    world.deliver(journal, server)
    assert server.state.requests == []


def test_events_are_delivered_in_one_request_and_leave_the_journal(world, server, journal, tmp_path):
    made = events(3)
    journal.record(None, *made)
    world.deliver(journal, server)
    assert server.state.events == made
    assert len(server.state.requests) == 1
    assert journal.undelivered() == read_again(tmp_path).undelivered() == []


@pytest.mark.parametrize("count", [BATCH, BATCH + 1, MAX_EVENTS])
def test_many_events_are_delivered_in_batches_in_their_order(world, server, journal, count):
    made = events(count, failure="x" * MAX_DETAILS)
    journal.record(None, *made)
    world.deliver(journal, server)
    assert server.state.events == made
    assert [len(request.json()) for request in server.state.requests] == [
        min(BATCH, count - first) for first in range(0, count, BATCH)
    ]


def test_batches_that_were_taken_are_not_sent_again_after_one_that_was_not(world, server, journal, tmp_path):
    made = events(2 * BATCH + 1)
    journal.record(None, *made)
    server.state.faults.add("POST", "/events", skip=1, status=503)
    with pytest.raises(PendingError):
        world.deliver(journal, server)
    later = read_again(tmp_path)
    assert ids(later.undelivered()) == ids(made[BATCH:])
    world.deliver(later, server)
    assert server.state.events == made


@pytest.mark.parametrize(
    ("status", "kind"), [(400, ServerRefusedError), (413, ServerRefusedError), (503, PendingError)]
)
def test_events_that_are_not_taken_stay_as_they_are(world, server, journal, tmp_path, status, kind):
    made = events(2)
    journal.record(None, *made)
    server.state.faults.add("POST", "/events", status=status)
    with pytest.raises(kind):
        world.deliver(journal, server)
    assert journal.undelivered() == read_again(tmp_path).undelivered() == made


def test_events_whose_answer_was_lost_are_sent_again_under_the_same_ids(world, server, journal):
    made = events(2)
    journal.record(None, *made)
    server.state.faults.add("POST", "/events", drop="after")
    with pytest.raises(PendingError):
        world.deliver(journal, server)
    world.deliver(journal, server)
    assert server.state.events == made * 2
    assert server.state.unique_events() == made


FAULTS = {
    "status": {"status": 503},
    "refused": {"status": 400},
    "portal": {"status": 200, "headers": {"Content-Type": "text/html"}, "body": "<html>"},
    "not taken": {"drop": "before"},
    "reset": {"reset": True},
    "taken, answer lost": {"drop": "after"},
    "taken, answer reset": {"drop": "after", "reset": True},
    "taken, then 500": {"status": 500, "work": True},
}
ACTIONS = st.one_of(
    st.tuples(st.just("record"), st.integers(1, BATCH + 10)),
    st.tuples(st.just("deliver"), st.sampled_from([None, *FAULTS])),
    st.tuples(st.just("cut"), st.none()),
)


@PROPERTY
@given(st.lists(ACTIONS, max_size=8))
def test_events_arrive_in_order_at_least_once_and_none_is_lost_whatever_fails(world, tmp_path_factory, actions):
    storage = tmp_path_factory.mktemp("storage")
    journal, made = Journal(storage), []
    with world.running() as server:
        for action, value in [*actions, ("deliver", None)]:
            if action == "record" and len(made) + value <= MAX_EVENTS:
                new = events(value)
                journal.record(None, *new)
                made += new
            elif action == "cut":
                journal = read_again(storage)
            elif action == "deliver":
                server.state.faults.clear()
                if value is not None:
                    server.state.faults.add("POST", "/events", **FAULTS[value])
                try:
                    world.deliver(journal, server)
                except (PendingError, ServerRefusedError):
                    assert value is not None
        assert server.state.unique_events() == made
        arrived = [ids(request.json()) for request in server.state.requests]
    assert all(len(batch) <= BATCH for batch in arrived)
    taken = 0  # of the events in their order; each request begins with the oldest one that may not have arrived
    order = ids(made)
    for batch in arrived:
        first = order.index(batch[0])
        assert first <= taken
        assert batch == order[first : first + len(batch)]
        taken = max(taken, first + len(batch))
    assert journal.undelivered() == read_again(storage).undelivered() == []


# Delivery beside the rotation


def test_events_that_wait_already_are_delivered_at_the_start(server, journal, begin, ended):
    made = events(BATCH + 1)
    journal.record(None, *made)
    delivery = begin()
    delivery.end(PATIENCE, drain=True)
    assert server.state.events == made
    assert journal.undelivered() == []
    assert ended()


def test_event_is_delivered_as_soon_as_it_is_told_of(server, journal, begin):
    delivery = begin()
    made = events(3)
    for number, event in enumerate(made):
        taken = threading.Event()
        record = server.state.record_events

        def tell(request, taken=taken, record=record):
            taken.set()
            return record(request)

        server.state.record_events = tell
        journal.record(None, event)
        delivery.notify()
        assert taken.wait(PATIENCE), number
        server.state.record_events = record
    delivery.end(PATIENCE, drain=True)
    assert server.state.events == made
    assert {request.connection for request in server.state.requests} == {1}


def test_draining_delivers_what_came_without_a_word(server, journal, begin, ended):
    delivery = begin()
    made = events(1)
    journal.record(None, *made)
    delivery.end(PATIENCE, drain=True)
    assert server.state.events == made
    assert ended()


def test_draining_waits_no_longer_than_it_is_told_to(server, journal, begin):
    release = threading.Event()
    server.state.faults.add("POST", "/events", hang=release)
    made = events(1)
    journal.record(None, *made)
    delivery = begin()
    delivery.end(0.05, drain=True)
    assert journal.undelivered() == made
    release.set()


def test_stopping_lets_the_request_under_way_end_and_sends_no_other(server, begin, journal, ended):
    under_way, release = threading.Event(), threading.Event()
    record = server.state.record_events

    def hold(request):
        under_way.set()
        assert release.wait(PATIENCE)
        return record(request)

    server.state.record_events = hold
    made = events(BATCH + 1)
    journal.record(None, *made)
    delivery = begin()
    assert under_way.wait(PATIENCE)
    delivery.end(0.01)  # comes back though the request is not done
    release.set()
    assert ended()
    assert server.state.events == made[:BATCH]
    assert journal.undelivered() == made[BATCH:]


def test_stopping_ends_the_wait_for_another_try(begin, server, journal, ended):
    refused = threading.Event()

    def refuse(_request):
        refused.set()
        raise ValueError("not now")

    made = events(1)
    journal.record(None, *made)
    server.state.record_events = refuse
    server.state.faults.add("POST", "/events", times=None, status=503, work=True)
    delivery = begin(retry_delays=(25.0,))
    assert refused.wait(PATIENCE)
    delivery.end(PATIENCE)
    assert ended()
    assert len(server.state.requests) == 1
    assert journal.undelivered() == made


def test_delivery_that_is_stopped_before_it_connects_sends_nothing(world, server, journal, ended):
    release = threading.Event()

    def connect(stop):
        assert release.wait(PATIENCE)
        return world.client(server, stop)

    journal.record(None, *events(1))
    delivery = Delivery(journal, connect)
    delivery.end(0)
    release.set()
    assert ended()
    assert server.state.requests == []


@pytest.mark.parametrize("fault", [{"status": 503}, {"status": 400}, {"drop": "before"}], ids=str)
def test_delivery_that_fails_ends_and_leaves_the_events_for_the_next_one(server, begin, journal, ended, fault):
    server.state.faults.add("POST", "/events", **fault)
    made = events(2)
    journal.record(None, *made)
    first = begin()
    assert ended()
    first.notify()
    first.end(PATIENCE, drain=True)
    assert journal.undelivered() == made
    second = begin()
    second.end(PATIENCE, drain=True)
    assert server.state.events == made


@pytest.mark.parametrize("error", [OfflineError("no network"), TokenError("gone"), PinError("locked"), OSError("disk")])
def test_connection_that_cannot_be_made_leaves_the_events_for_later(journal, ended, error, caplog):
    def connect(_stop):
        raise error

    made = events(1)
    journal.record(None, *made)
    caplog.set_level("INFO")
    delivery = Delivery(journal, connect)
    assert ended()
    delivery.end(PATIENCE)
    assert journal.undelivered() == made
    assert f"keeping events for later: {error}" in caplog.text


def test_journal_that_cannot_be_written_ends_the_delivery_and_keeps_the_events(
    server, begin, journal, ended, tmp_path, caplog
):
    caplog.set_level("INFO")
    made = events(BATCH + 1)
    journal.record(None, *made)
    written = journal.folder / JOURNAL
    written.unlink()
    written.mkdir()  # nothing can replace it
    begin()
    assert ended()
    assert server.state.events == made[:BATCH]
    assert journal.undelivered() == made
    assert "keeping events for later" in caplog.text
