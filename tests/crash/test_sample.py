"""A sample of what `make test-crash` explores as a whole."""

import random

import pytest

from . import explorer

PLACES = 8


@pytest.mark.parametrize("keys", ["file", "token"])
@pytest.mark.parametrize("refused", [False, True], ids=["completed", "rolled back"])
def test_a_rotation_that_is_cut_off_anywhere_recovers(keys, refused):
    everything = explorer.places(keys, refused, explorer.CUTS, every=1)
    findings = [explorer.try_place(place) for place in random.Random(1).sample(everything, PLACES)]
    assert [finding for finding in findings if finding.broken] == []
    assert any(finding.happened for finding in findings)
