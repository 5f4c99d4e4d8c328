"""A refused PIN is remembered across calls, without being written down."""

import json
import stat

import pytest

from handler.device.refused_pin import RefusedPin
from hsm.errors import PinError, TokenError
from tests.privileges import reachable_folder, unprivileged


@pytest.fixture
def memory(tmp_path):
    return RefusedPin(tmp_path)


def noted(folder):
    return folder / "renew-client-cert/refused-pin"


def test_nothing_is_known_and_nothing_written_before_a_pin_is_refused(memory, tmp_path):
    memory.check("aktualizr", "1234")
    memory.accepted()
    assert list(tmp_path.iterdir()) == []


def test_a_refused_pin_is_refused_again_and_the_message_names_the_file(memory, tmp_path):
    memory.refused("aktualizr", "1234")
    with pytest.raises(PinError, match=r"refused this PIN before.*correct p11\.pass") as refusal:
        RefusedPin(tmp_path).check("aktualizr", "1234")
    assert str(noted(tmp_path)) in str(refusal.value)
    assert refusal.value.final


@pytest.mark.parametrize(("label", "pin"), [("aktualizr", "1235"), ("lmp", "1234"), ("aktualizr1", "234")])
def test_another_pin_and_the_same_one_of_another_token_are_tried(memory, label, pin):
    memory.refused("aktualizr", "1234")
    memory.check(label, pin)


def test_an_accepted_pin_makes_it_forget(memory, tmp_path):
    memory.refused("aktualizr", "1234")
    memory.accepted()
    memory.check("aktualizr", "1234")
    assert not noted(tmp_path).exists()


def test_what_is_written_holds_no_pin_is_for_root_only_and_differs_each_time(memory, tmp_path):
    contents = []
    for _ in range(2):
        memory.refused("aktualizr", "73219058")
        contents.append(noted(tmp_path).read_text())
    assert stat.S_IMODE(noted(tmp_path).stat().st_mode) == 0o600
    assert "73219058" not in contents[0]
    assert contents[0] != contents[1]


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"salt": "zz", "hash": "00"}', '{"salt": 1, "hash": 2}', "é"]
)
def test_a_file_that_is_damaged_is_as_good_as_none(memory, tmp_path, content):
    noted(tmp_path).parent.mkdir()
    noted(tmp_path).write_text(content)
    memory.check("aktualizr", "1234")


def test_a_note_of_a_hash_that_is_no_text_is_as_good_as_none(memory, tmp_path):
    memory.refused("aktualizr", "1234")
    damaged = json.loads(noted(tmp_path).read_text()) | {"hash": None}
    noted(tmp_path).write_text(json.dumps(damaged))
    memory.check("aktualizr", "1234")


def test_a_folder_that_cannot_be_written_is_only_warned_of(tmp_path, caplog):
    (tmp_path / "renew-client-cert").write_text("a file in the place of the folder")
    RefusedPin(tmp_path).refused("aktualizr", "1234")
    RefusedPin(tmp_path).accepted()
    folder = tmp_path / "renew-client-cert"
    assert f"the refused PIN could not be noted: File exists: {folder}" in caplog.text
    assert f"the note of a refused PIN could not be removed: Not a directory: {folder}" in caplog.text


def test_no_pin_is_tried_if_a_folder_is_in_the_place_of_the_note(memory, tmp_path):
    noted(tmp_path).mkdir(parents=True)
    with pytest.raises(TokenError, match=r"could not be noted: .*refused-pin is a folder; move it away"):
        memory.check("aktualizr", "1234")


def test_a_storage_folder_that_may_not_be_entered_is_said_and_no_pin_is_tried():
    with reachable_folder() as folder:
        storage = folder / "sota"
        storage.mkdir(mode=0o500)
        with unprivileged(), pytest.raises(TokenError, match="cannot be written: run as root"):
            RefusedPin(storage).check("aktualizr", "87654321")
