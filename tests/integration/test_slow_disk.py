"""A slow disk: how often a rotation flushes."""

import pytest

from tests.bench.clients import OURS
from tests.bench.disk import rotate_on_a_slow_disk

AT_MOST = {"file": 28, "token": 26}
"""An fsync takes 20 ms and more on a slow eMMC."""


@pytest.mark.parametrize("keys", AT_MOST)
def test_a_rotation_within_fioconfigs_call_flushes_seldom(keys):
    assert rotate_on_a_slow_disk(OURS, keys).flushes <= AT_MOST[keys]
