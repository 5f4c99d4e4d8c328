"""The search paths of a device in a folder of their own."""

import pytest

from tests.privileges import reachable_folder

from .tree import Tree


@pytest.fixture
def tree():
    with reachable_folder() as root:
        yield Tree(root)
