"""A short run of what `make fuzz` runs for long, the same every time."""

import pytest
from hypothesis import HealthCheck, given, settings

from .mutation import spoilt
from .targets import targets

NAMES = (
    "certificates",
    "bags",
    "bags as text",
    "csrattrs",
    "JSON configuration",
    "encrypted values",
    "TOML",
    "cert-rotation.state",
    "journal",
    "small files",
    "HTTP answers",
)
EXAMPLES = {"HTTP answers": 40}


@pytest.fixture(scope="module")
def every_target(tmp_path_factory):
    with targets(tmp_path_factory.mktemp("fuzz")) as found:
        assert tuple(found) == NAMES
        yield found


@pytest.mark.parametrize("name", NAMES)
def test_whatever_others_send_ends_in_order_or_with_an_error_that_is_documented(every_target, name):
    target = every_target[name]
    for seed in target.seeds:
        target.feed(seed)

    @settings(
        max_examples=EXAMPLES.get(name, 150),
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(spoilt(target.seeds))
    def run(data):
        target.feed(data)

    run()
