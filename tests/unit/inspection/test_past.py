"""What the history tells of earlier rotations."""

import json

import pytest

from handler.device.storage import FOLDER
from handler.inspection.past import read_past
from handler.journal.history import NAME, ROLLED_BACK
from handler.journal.pending import COMPLETED
from handler.journal.snapshot import Snapshot


def entry(rotation_id, time, *, success=True, kind=""):
    return {"time": time, "rotation_id": rotation_id, "event": COMPLETED, "success": success, "kind": kind}


@pytest.mark.parametrize("time", ["", "yesterday", "2026-13-01T00:00:00Z"])
def test_an_entry_with_a_damaged_time_hides_no_other(tmp_path, time):
    entries = [
        entry("first", "2026-01-01T00:00:00Z", success=False, kind=ROLLED_BACK),
        entry("damaged", time),
        entry("last", "2026-01-03T00:00:00Z"),
    ]
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / NAME).write_text("".join(json.dumps(each) + "\n" for each in entries))
    past = read_past(tmp_path, Snapshot())
    assert past.last.rotation_id == "last"
    assert past.roll_back is None
