"""The journal's file: whatever a cut leaves of it is a state that it had, and damage is told from a cut."""

import errno
import json
import resource

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handler.device.keystore import IdentityNames
from handler.device.request import RotationRequest
from handler.errors import PendingError
from handler.journal.decoding import MalformedError
from handler.journal.events import EventFactory
from handler.journal.journal import MAX_GROWTH, Journal
from handler.journal.records import append, parse, replace_all, state_of, whole_length
from handler.journal.rotation_state import RotationState
from tests import journal as journals

REQUEST = RotationRequest("certs-1", "https://est.example", ("01", "07"), ("03", "09"))
ROTATION = RotationState(REQUEST, IdentityNames("01", "03"), IdentityNames("07", "09"))
EVENTS = EventFactory("certs-1", ("target", "7"))
RECORDS = [{"version": 2, "rotation": None}, {"add": [{"id": "a"}, {"id": "b"}]}, {"gone": ["a"], "device": "3f"}]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "journal"


@pytest.fixture
def written(path):
    length = replace_all(path, RECORDS[0])
    for record in RECORDS[1:]:
        length = append(path, record, at=length, durable=True)
    return path.read_bytes()


def test_what_is_appended_is_read_as_one_state(written):
    records, length = parse(written)
    assert (records, length) == (RECORDS, len(written))
    assert state_of(records)["events"] == [{"id": "b"}]
    assert state_of(records)["device"] == "3f"


def test_a_file_that_is_cut_off_anywhere_holds_the_whole_records_before_that(written):
    ends = [len(b"".join(written.splitlines(keepends=True)[:count])) for count in range(4)]
    for size in range(ends[1], len(written) + 1):
        records, length = parse(written[:size])
        whole = sum(end <= size for end in ends[1:])
        assert (records, length) == (RECORDS[:whole], ends[whole])


@pytest.mark.parametrize("tail", [b"\0" * 4096, b"\xff", b"00000000 {}\n", b"\n\n"], ids=repr)
def test_what_a_power_loss_may_leave_at_the_end_is_no_record(written, tail):
    assert parse(written + tail) == (RECORDS, len(written))


@pytest.mark.parametrize("number", [0, 1])
def test_a_bad_record_before_a_good_one_is_damage(written, number):
    lines = written.splitlines(keepends=True)
    for at in range(len(lines[number]) - 1):
        bad = bytearray(lines[number])
        bad[at] ^= 0x04
        with pytest.raises(MalformedError, match=f"line {number + 1} is unreadable"):
            parse(b"".join([*lines[:number], bytes(bad), *lines[number + 1 :]]))


def test_a_file_without_any_whole_record_is_damage_unless_it_is_empty():
    assert parse(b"") == ([], 0)
    with pytest.raises(MalformedError, match="line 1 is unreadable"):
        parse(b"\0" * 100)


def test_the_next_record_takes_the_place_of_a_torn_one(path, written):
    path.write_bytes(written + b"12345678 {")
    append(path, {"device": "next"}, at=whole_length(path), durable=True)
    assert parse(path.read_bytes())[0] == [*RECORDS, {"device": "next"}]


@pytest.mark.parametrize("room", [0, 1, 50])
def test_a_record_that_finds_no_room_leaves_the_last_one(path, written, room):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(written) + room, before[1]))
    try:
        with pytest.raises(OSError, match=str(path)) as failure:
            append(path, {"device": "x" * 100}, at=len(written), durable=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert failure.value.errno == errno.EFBIG
    assert path.read_bytes() == written


def test_nothing_is_appended_to_a_file_that_has_lost_something(path, written):
    path.write_bytes(written[:-1])
    with pytest.raises(OSError, match="shorter"):
        append(path, {"device": "x"}, at=len(written), durable=True)
    assert path.read_bytes() == written[:-1]


def test_a_symbolic_link_is_not_followed(path, written, tmp_path):
    other = tmp_path / "other"
    path.rename(other)
    path.symlink_to(other)
    with pytest.raises(OSError, match="symbolic links"):
        append(path, {"device": "x"}, at=len(written), durable=True)
    assert other.read_bytes() == written


def test_a_journal_that_grows_is_rewritten(tmp_path):
    journal = Journal(tmp_path)
    journal.record(ROTATION, EVENTS.make("one"))
    for attempt in range(2000):
        journal.wait(PendingError(f"{attempt} {'x' * 900}"))
    assert journals.path(tmp_path).stat().st_size < 2 * MAX_GROWTH
    again = Journal(tmp_path)
    again.load()
    assert again.facts == journal.facts


OPERATIONS = st.lists(st.sampled_from(["step", "event", "fail", "request", "wait", "deliver"]), min_size=1, max_size=12)


@settings(deadline=None, database=None, max_examples=60)
@given(operations=OPERATIONS, cut=st.floats(0, 1))
def test_whatever_happened_a_cut_leaves_a_state_that_there_was(tmp_path_factory, operations, cut):
    storage = tmp_path_factory.mktemp("storage")
    journal = Journal(storage)
    journal.record(ROTATION, EVENTS.make("CertRotationStarted"))
    states = [journals.read(storage)]
    first = journals.path(storage).stat().st_size
    for number, operation in enumerate(operations):
        if operation == "step":
            journal.record(RotationState(REQUEST, ROTATION.old, ROTATION.new, step=number % 5))
        elif operation in {"event", "fail"}:
            journal.record(journal.facts.rotation, EVENTS.make("e", failure="why" if operation == "fail" else None))
        elif operation == "request":
            journal.request(RotationRequest(f"certs-{number}", "https://est.example", (), ()))
        elif operation == "wait":
            journal.wait(PendingError(f"busy {number}"))
        else:
            journal.delivered(journal.undelivered()[:1])
        states.append(json.loads(json.dumps(journals.read(storage))))
    content = journals.path(storage).read_bytes()
    size = first + int(cut * (len(content) - first))
    journals.path(storage).write_bytes(content[:size])
    assert journals.read(storage) in states


def test_replacing_all_records_is_atomic_and_private(path, written):
    assert replace_all(path, {"version": 2}) == path.stat().st_size < len(written)
    assert path.stat().st_mode & 0o777 == 0o600
