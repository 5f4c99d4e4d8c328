"""A sample of what `make test-crash` explores as a whole: points of every kind, other ones for every kind of device.

Some 30 s of processor time in all: what a rotation that was cut off left serves several points, and recoveries run in
warm processes.
"""

import itertools
import random

import pytest

from . import explorer, places


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("gateway", "keys"), [("takes", "file"), *zip(places.GATEWAYS, itertools.cycle(["token", "file"]), strict=False)]
)
def test_a_rotation_that_is_cut_off_anywhere_recovers(gateway, keys):
    everything = explorer.sites(keys, gateway, explorer.record(keys, gateway), places.CUTS, places.new_left_out())
    choice = random.Random(f"{gateway} {keys}")
    findings = []
    for kind in sorted({site.kind for site in everything}):
        sites = [site for site in everything if site.kind == kind]
        findings += explorer.try_site(choice.choice(sites))
    (proof,) = [site for site in everything if site.is_proof and site.kind == "after"]
    findings += explorer.try_site(proof)
    assert [finding for finding in findings if finding.broken] == []
    assert sum(finding.happened for finding in findings) > len(findings) / 2
