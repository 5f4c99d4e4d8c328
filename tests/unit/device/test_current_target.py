"""The Target that events name."""

import time

import pytest

from handler.device.current_target import current_target


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, ("", "0")),
        ("", ("", "0")),
        (
            'TARGET_NAME="intel-corei7-64-lmp-290"\nCUSTOM_VERSION="290"\nLMP_MACHINE="x"\n',
            ("intel-corei7-64-lmp-290", "290"),
        ),
        ("CUSTOM_VERSION='7'\r\nTARGET_NAME = lmp-7\r\n", ("lmp-7", "7")),
        ('TARGET_NAME="lmp-7"\n', ("lmp-7", "0")),
        ('TARGET_NAME="lmp-7\nCUSTOM_VERSION="seven"\n', ("", "0")),
        ("\x00\xff\n# TARGET_NAME=x", ("", "0")),
    ],
)
def test_name_and_version_are_read_or_what_the_reference_sends(tmp_path, content, expected):
    if content is not None:
        (tmp_path / "current-target").write_bytes(content.encode("latin-1"))
    assert current_target(tmp_path) == expected


@pytest.mark.parametrize("before", ["", '"', "\t "])
def test_a_line_of_blanks_takes_no_longer_than_its_bytes(tmp_path, before):
    (tmp_path / "current-target").write_bytes(b"TARGET_NAME=%s%s\xff\n" % (before.encode(), b" " * 1500))
    begin = time.process_time()
    assert current_target(tmp_path) == ("", "0")
    assert time.process_time() - begin < 0.5
