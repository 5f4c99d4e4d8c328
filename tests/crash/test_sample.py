"""A sample of what `make test-crash` explores as a whole: a place of every kind."""

import random

import pytest

from . import explorer


@pytest.mark.timeout(300)
@pytest.mark.parametrize("keys", ["file", "token"])
@pytest.mark.parametrize("refused", [False, True], ids=["completed", "rolled back"])
def test_a_rotation_that_is_cut_off_anywhere_recovers(keys, refused):
    everything = explorer.places(keys, refused, explorer.CUTS, every=1)
    choice = random.Random(1)
    findings = []
    for cut in explorer.CUTS:
        places = [place for place in everything if place.cut == cut]
        findings += [
            explorer.try_place(place)
            for place in choice.sample(places, min(len(places), 2 if keys == "file" and not refused else 1))
        ]
    assert [finding for finding in findings if finding.broken] == []
    assert sum(finding.happened for finding in findings) > len(findings) / 2
