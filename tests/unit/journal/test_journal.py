"""The journal as it is found on disk: whatever stands there, readers give it or say why not, and none fails."""

import base64
import json
import os
import subprocess
import sys
from copy import deepcopy
from dataclasses import asdict

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from handler.crypto.csr import build_csr, spki_pem
from handler.device.keystore import IdentityNames
from handler.device.request import RotationRequest
from handler.errors import PendingError
from handler.journal.decoding import MalformedError
from handler.journal.events import EventFactory
from handler.journal.journal import Journal
from handler.journal.pending import BROKEN, EARLIER, FOLDER, GUARD, JOURNAL, LaterJournalError, Waiting, read_pending
from handler.journal.records import replace_all
from handler.journal.rotation_state import Content, RotationState
from handler.journal.snapshot import Snapshot
from tests import journal as journals
from tests.authority import read
from tests.simulators.device import REPOSITORY
from tests.simulators.pki import FactoryPki, certificate_pem

ID = "certs-1669058841"
EVENTS = EventFactory(ID, ("raspberrypi4-64-lmp-7", "7"))
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


@pytest.fixture(scope="module")
def rotation():
    pki, key = FactoryPki(), ec.generate_private_key(ec.SECP256R1())
    certificate = pki.device_certificate(key.public_key())
    return RotationState(
        request=RotationRequest(ID, "https://est.example/.well-known/est", ("01", "07"), ("03", "09")),
        old=IdentityNames("01", "03"),
        new=IdentityNames("07", "09"),
        step=2,
        public_key=spki_pem(key.public_key()),
        csr=base64.b64encode(build_csr(read(certificate), key)).decode(),
        certificate=certificate_pem(certificate).decode(),
        chain=(certificate_pem(certificate).decode(),),
    )


@pytest.fixture
def storage(tmp_path, rotation):
    """Give a storage folder whose journal says everything that it can say."""
    journal = Journal(tmp_path)
    journal.name_device("3f0a")
    journal.record(rotation, EVENTS.make("one"), EVENTS.make("two", failure="why"))
    journal.request(RotationRequest("certs-next", "https://est.example", ("01", "07"), ("03", "09")))
    journal.wait(PendingError("busy"))
    return tmp_path


@pytest.fixture
def change(storage):
    """Give a function that changes the journal's JSON."""
    written = journals.read(storage)

    def do(place, value):
        data = deepcopy(written)
        *way, last = place.split(".")
        target = data
        for name in way:
            target = target[int(name) if isinstance(target, list) else name]
        target[last] = value
        replace_all(journals.path(storage), {**data, "add": data["events"]})
        return storage

    return do


def loaded(storage):
    journal = Journal(storage)
    journal.load()
    return journal


def is_broken(storage):
    """Tell whether the journal is broken for a call that reads all of it, and for `status`; then it is set aside."""
    with pytest.raises(MalformedError) as failure:
        Content.load(storage)
    assert str(failure.value) in Snapshot.of(storage).problem
    path = storage / FOLDER / JOURNAL
    loaded(storage)
    return not os.path.lexists(path) and os.path.lexists(path.with_name(BROKEN))


def test_what_was_written_is_read_again(storage, rotation):
    journal, pending = loaded(storage), read_pending(storage)
    assert journal.facts.rotation == rotation
    assert journal.facts.requested.rotation_id == "certs-next"
    assert journal.facts.waiting == pending.waiting == Waiting("busy")
    assert (journal.facts.device, pending.device) == ("3f0a", "3f0a")
    assert (pending.rotation_id, pending.step, pending.undelivered, pending.due) == (ID, 2, 2, True)
    assert len(journal.undelivered()) == 2


@pytest.mark.parametrize("place", ["later", "rotation.later", "rotation.old.later", "rotation.request.later"])
def test_a_field_that_nobody_here_knows_is_left_out(change, rotation, place):
    assert loaded(change(place, {"any": [1]})).facts.rotation == rotation


def test_a_field_of_the_waiting_that_nobody_here_knows_is_left_out(change, rotation):
    storage = change("waiting.later", 1)
    assert loaded(storage).facts.waiting == read_pending(storage).waiting == Waiting("busy")


def test_a_field_of_an_event_that_nobody_here_knows_is_kept(change):
    assert loaded(change("events.0.later", 1)).undelivered()[0]["later"] == 1


def test_a_journal_of_a_later_version_is_refused_and_left_as_it_is(change):
    path = change("version", 3) / FOLDER / JOURNAL
    before = path.read_bytes()
    for reader in (Content.load, read_pending, loaded):
        with pytest.raises(LaterJournalError, match="install that version again"):
            reader(path.parents[1])
    assert "later version" in Snapshot.of(path.parents[1]).problem
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "content",
    [
        b"\x00\xff garbage",
        b"null",
        b"[]",
        b"7",
        b"{}",
        b"[" * 200_000,
        b'{"a":' * 200_000,
        b" " * 5_000_000,
        b'{"version": 1' + b"0" * 5000 + b"}",
    ],
    ids=lambda content: f"{content[:12]!r} of {len(content)}",
)
def test_what_is_no_journal_is_due_so_that_somebody_sets_it_aside(storage, content):
    (storage / FOLDER / JOURNAL).write_bytes(content)
    pending = read_pending(storage)
    assert pending.due
    assert pending.problem
    assert is_broken(storage)


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo], ids=["folder", "FIFO"])
def test_what_is_no_file_is_no_journal(storage, make):
    path = storage / FOLDER / JOURNAL
    path.unlink()
    make(path)
    assert read_pending(storage).problem == "it is not a regular file"
    assert is_broken(storage)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("version", "1"),
        ("version", 0),
        ("version", True),
        ("rotation", [1]),
        ("rotation", "x"),
        ("rotation.step", "2"),
        ("rotation.step", 99),
        ("rotation.step", -3),
        ("rotation.step", True),
        ("rotation.request", None),
        ("rotation.request.rotation_id", 5),
        ("requested", "x"),
        ("events", "abc"),
        ("events", None),
        ("events", {"a": 1}),
        ("events", [1, 2]),
        ("events.1.id", None),
        ("events.1.event", "x"),
        ("events.1.event.success", "yes"),
        ("events.1.event.details", 5),
    ],
)
def test_a_journal_of_another_shape_is_broken_for_every_reader(change, place, value):
    storage = change(place, value)
    assert read_pending(storage).problem
    assert is_broken(storage)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("rotation.old", None),
        ("rotation.new.key", 7),
        ("rotation.public_key", 5),
        ("rotation.csr", "@@@"),
        ("rotation.csr", "AAAA"),
        ("rotation.certificate", "@@@"),
        ("rotation.chain", ["x"]),
        ("rotation.chain", "x"),
        ("rotation.reported", "yes"),
        ("rotation.request.key_ids", [1]),
        ("requested.est_server", None),
    ],
)
def test_what_only_the_rotation_needs_is_looked_at_as_well(change, place, value):
    assert is_broken(change(place, value))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("until", "soon"),
        ("until", 5),
        ("until", "2030-01-01T00:00:00"),  # whose time?
        ("attempts", "x"),
        ("attempts", None),
        ("attempts", -5),
        ("attempts", 10**400),
        ("reason", None),
    ],
)
def test_a_waiting_that_is_not_understood_is_as_good_as_none(change, rotation, name, value):
    storage = change(f"waiting.{name}", value)
    assert read_pending(storage).waiting is None
    assert loaded(storage).facts.waiting is None
    assert loaded(storage).facts.rotation == rotation


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("until", "0001-01-01T00:00:00+14:00"),
        ("until", "9999-12-31T23:59:59-14:00"),
        ("reason", "a\udc80b"),
        ("reason", "x" * 2_000_000),
    ],
)
def test_a_waiting_that_is_only_strange_is_kept(change, name, value):
    assert getattr(read_pending(change(f"waiting.{name}", value)).waiting, name) == value


def test_a_reason_is_kept_short(storage):
    journal = loaded(storage)
    journal.wait(PendingError("x" * 5000))
    assert len(read_pending(storage).waiting.reason) == 1000


@settings(deadline=None, database=None, max_examples=300)
@given(data=st.data())
def test_nothing_that_stands_in_the_journal_fails_a_reader(rotation, tmp_path_factory, data):
    content = json.loads(
        json.dumps(
            {
                "version": 2,
                "device": "3f0a",
                "rotation": asdict(rotation),
                "requested": asdict(rotation.request),
                "waiting": asdict(Waiting("busy", "2026-11-23T14:05:00+00:00")),
                "add": [EVENTS.make("one")],
            }
        )
    )
    target, place = content, data.draw(st.sampled_from(sorted(content)))
    while isinstance(target[place], (dict, list)) and target[place] and data.draw(st.booleans()):
        target = target[place]
        places = sorted(target) if isinstance(target, dict) else list(range(len(target)))
        place = data.draw(st.sampled_from(places))
    target[place] = data.draw(ANYTHING)
    storage = tmp_path_factory.mktemp("storage")
    (storage / FOLDER).mkdir()
    replace_all(storage / FOLDER / JOURNAL, content)
    Snapshot.of(storage)
    try:
        short = read_pending(storage)
        journal = loaded(storage)
    except LaterJournalError:
        return
    if short.problem:
        assert journal.facts.rotation is None
        assert not (storage / FOLDER / JOURNAL).exists()
    elif (storage / FOLDER / JOURNAL).exists():
        assert journal.facts.waiting == short.waiting
        journal.record(journal.facts.rotation, EVENTS.make("next"))


def test_reading_it_in_short_loads_no_cryptography():
    program = (
        "import sys, handler.journal.pending\n"
        "heavy = {'cryptography', 'requests', 'pkcs11', 'pyudev', 'ssl'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("length", [0, 5, len(GUARD)])
def test_torn_guard_against_an_earlier_version_is_no_journal(tmp_path, length):
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / EARLIER).write_bytes(GUARD[:length])
    assert read_pending(tmp_path) is None
    Journal(tmp_path).load()
    assert not any((tmp_path / FOLDER).iterdir())


@pytest.mark.parametrize(
    ("kind", "reason", "words"),
    [
        ("clock", "set the clock, or wait for network time", None),
        ("est", "EST server a.example: POST /x: HTTP 503", None),
        ("gateway", "device gateway a.example: GET /x: HTTP 503", None),
        ("network", "EST server a.example: POST /x: Network is unreachable", None),
        ("token", "token 'Lmp' has refused this PIN before", None),
        ("token", "no token with the label 'Lmp' is there (found: 'other')", None),
        ("token", "the PKCS#11 module says DeviceError", "token Lmp: the PKCS#11 module says DeviceError"),
        ("clock", "the clock of this device is wrong", "network time: the clock of this device is wrong"),
        (None, "busy", None),
    ],
)
def test_what_is_waited_for_is_named_once(kind, reason, words):
    assert Waiting(reason, kind=kind, label="Lmp").words == (words or reason)
