"""The soak finds what grows, however little it is, and nothing else (tests.soak.sample)."""

from collections import Counter
from dataclasses import replace

import pytest

from handler.journal import history
from tests.soak.sample import BLOCKS, IN_USE, RESIDENT, Sample, grown

SAMPLE = Sample(
    rotations=0,
    objects=Counter(PRIVATE_KEY=2, PUBLIC_KEY=2, CERTIFICATE=2),
    files=Counter({"sota.toml": 1, "pkey.*.pem": 1, history.NAME: 1}),
    sizes=Counter({"sota.toml": 700, "pkey.*.pem": 227, history.NAME: 40_000}),
    descriptors=Counter({"socket": 2, "/dev/null": 1}),
    threads=Counter(python=3),
    memory={RESIDENT: 50_000_000, IN_USE: 9_000_000, BLOCKS: 160_000},
)


def samples(field, change, number=50):
    """Make samples in each of which a field is what `change` makes of it and of the number of rotations."""
    return [
        replace(SAMPLE, rotations=10 * each, **{field: change(getattr(SAMPLE, field), 10 * each)})
        for each in range(number + 1)
    ]


def more(name, each):
    """Add `each` of something for every rotation."""
    return lambda before, rotations: type(before)({**before, name: before.get(name, 0) + int(each * rotations)})


def test_a_rotation_that_leaves_things_as_they_were_is_no_growth():
    assert list(grown([SAMPLE] * 10, {})) == []


@pytest.mark.parametrize(
    ("field", "name"),
    [
        ("objects", "CERTIFICATE"),
        ("objects", "DATA"),
        ("files", "pkey.*.pem"),
        ("descriptors", "/dev/null"),
        ("threads", "python"),
    ],
)
@pytest.mark.parametrize("each", [1, 0.002], ids=["one a rotation", "one in 500"])
def test_one_more_of_anything_that_is_counted_is_growth(field, name, each):
    (found,) = grown(samples(field, more(name, each)), {})
    assert name in found


@pytest.mark.parametrize(("what", "each"), [(RESIDENT, 6000), (IN_USE, 400), (BLOCKS, 1)])
def test_memory_that_every_rotation_leaves_is_growth(what, each):
    (found,) = grown(samples("memory", more(what, each)), {})
    assert what in found


def test_memory_that_the_module_loses_by_itself_is_not_the_programs():
    lossy = samples("memory", more(IN_USE, 4000))
    assert list(grown(lossy, {IN_USE: 4000 * 400})) == []
    assert list(grown(lossy, {IN_USE: 2000 * 400})) != []


def test_one_noisy_figure_is_no_growth():
    noisy = samples(
        "memory", lambda memory, rotations: {**memory, RESIDENT: 90_000_000} if rotations == 500 else memory
    )
    assert list(grown(noisy, {})) == []


def test_a_file_that_every_rotation_writes_to_is_growth():
    (found,) = grown(samples("sizes", more("sota.toml", 1)), {})
    assert "sota.toml" in found


def test_the_history_may_fill_up_to_its_limit_and_no_further():
    room = history.MAX_BYTES - SAMPLE.sizes[history.NAME]
    assert list(grown(samples("sizes", more(history.NAME, room / 500)), {})) == []
    (found,) = grown(samples("sizes", more(history.NAME, (room + 500) / 500)), {})
    assert history.NAME in found
