"""What pyproject.toml promises of libraries is what `make test-oldest` tries."""

import re
import tomllib

from tests.simulators.device import REPOSITORY


def test_the_lower_bounds_are_the_versions_that_are_tested():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    bounds = dict(each.split(">=") for each in project["dependencies"])
    oldest = (REPOSITORY / "tests/oldest.txt").read_text()
    assert bounds == {
        name: version.removesuffix(".*") for name, version in re.findall(r"^([\w-]+)==(.+)$", oldest, re.MULTILINE)
    }
