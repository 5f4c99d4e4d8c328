"""cert-rotation.state.completed: what the stock handler finds in it, and what is made of one that is not ours."""

import json
import logging

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handler.device import completed_rotations as completed
from handler.device.request import RotationRequest
from tests.privileges import reachable_folder, unprivileged

PROPERTY = settings(max_examples=40, deadline=None, database=None)
ID = "certs-1669058841"
PEM = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"
IDS = st.text("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_", min_size=1, max_size=64)


def rotation(rotation_id=ID, certificate=PEM):
    request = RotationRequest(rotation_id, "https://est.example:8443/.well-known/est", ("01", "07"), ("03", "09"))
    return request, certificate


def stored(folder):
    return json.loads((folder / completed.NAME).read_bytes())


def test_rotation_that_was_recorded_is_found_again(tmp_path):
    completed.write(tmp_path, *rotation())
    assert completed.rotation_ids(tmp_path) == [ID]


@PROPERTY
@given(IDS)
def test_stock_handler_finds_every_id_by_its_text(tmp_path_factory, rotation_id):
    folder = tmp_path_factory.mktemp("storage")
    completed.write(folder, *rotation(rotation_id))
    assert f'"RotationId":"{rotation_id}",' in (folder / completed.NAME).read_text("ascii")
    assert completed.rotation_ids(folder) == [rotation_id]


def test_record_has_the_fields_of_fioconfig_and_no_secret(tmp_path):
    completed.write(tmp_path, *rotation())
    assert stored(tmp_path) == {
        "RotationId": ID,
        "StepIdx": 5,
        "EstServer": "https://est.example:8443/.well-known/est",
        "PkeySlotIds": ["01", "07"],
        "CertSlotIds": ["03", "09"],
        "NewKey": "",
        "NewCert": PEM,
        "FullConfigEncrypted": "",
        "DeviceConfigUpdated": True,
        "Finalized": True,
    }


def test_those_before_are_kept_and_found_by_the_stock_handler_too(tmp_path):
    ids = [f"certs-{number}" for number in range(completed.MOST + 5)]
    for each in ids:
        completed.write(tmp_path, *rotation(each))
    kept = ids[::-1][: completed.MOST]
    assert completed.rotation_ids(tmp_path) == kept
    text = (tmp_path / completed.NAME).read_text("ascii")
    assert all(f'"RotationId":"{each}",' in text for each in kept)
    completed.write(tmp_path, *rotation(kept[3]))
    assert completed.rotation_ids(tmp_path) == [kept[3], *kept[:3], *kept[4:]]


@pytest.mark.parametrize("earlier", ["7", "[7]", "[{}]", '["certs-0"]', '[{"RotationId": 7}]', "null"])
def test_those_before_that_are_none_are_passed_over(tmp_path, earlier):
    (tmp_path / completed.NAME).write_text(f'{{"RotationId": "{ID}", "Earlier": {earlier}}}')
    assert completed.rotation_ids(tmp_path) == [ID]


def test_record_without_a_certificate_holds_an_empty_text(tmp_path):
    completed.write(tmp_path, *rotation(certificate=""))
    assert stored(tmp_path)["NewCert"] == ""


def test_record_is_for_its_owner_only_even_where_another_was_there(tmp_path):
    path = tmp_path / completed.NAME
    path.write_text('{"RotationId":"certs-1","NewKey":"secret"}')
    path.chmod(0o644)
    completed.write(tmp_path, *rotation())
    assert path.stat().st_mode & 0o7777 == 0o600
    assert completed.rotation_ids(tmp_path) == [ID, "certs-1"]
    assert b"secret" not in path.read_bytes()
    assert [each.name for each in tmp_path.iterdir()] == [completed.NAME]


def test_record_that_cannot_be_written_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        completed.write(tmp_path / "missing", *rotation())


def test_device_that_never_rotated_has_no_completed_rotation_and_hears_no_warning(tmp_path, caplog):
    assert completed.rotation_ids(tmp_path) == []
    assert caplog.records == []


def test_id_is_read_from_the_file_of_fioconfig(tmp_path):
    (tmp_path / completed.NAME).write_text(f'{{"Extra": [1], "RotationId": "{ID}", "NewKey": "x"}}\n')
    assert completed.rotation_ids(tmp_path) == [ID]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"null",
        b"[]",
        b'"RotationId"',
        b"7",
        b"[" * 100_000,
        b"{}",
        b'{"rotationid": "certs-1"}',
    ],
    ids=lambda content: repr(content[:20]),
)
def test_file_that_is_something_else_is_named_in_a_warning_and_taken_as_none(tmp_path, caplog, content):
    (tmp_path / completed.NAME).write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert completed.rotation_ids(tmp_path) == []
    assert f"{tmp_path / completed.NAME} cannot be read" in caplog.text


@pytest.mark.parametrize("value", ["null", "7", "[]", '{"a": 1}', "true"])
def test_id_that_is_no_text_is_none(tmp_path, value):
    (tmp_path / completed.NAME).write_text(f'{{"RotationId": {value}}}')
    assert completed.rotation_ids(tmp_path) == []


def test_folder_in_its_place_is_taken_as_none(tmp_path, caplog):
    (tmp_path / completed.NAME).mkdir()
    assert completed.rotation_ids(tmp_path) == []
    assert "not a regular file" in caplog.text


def test_file_that_must_not_be_read_is_taken_as_none(caplog):
    with reachable_folder() as folder:
        (folder / completed.NAME).write_text(f'{{"RotationId": "{ID}"}}')
        (folder / completed.NAME).chmod(0o000)
        with unprivileged():
            assert completed.rotation_ids(folder) == []
    assert "Permission denied" in caplog.text
