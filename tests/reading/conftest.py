"""One stained and read phantom slide for the tests of what is read and shown of it."""

import pytest

from tests.reading.made import result
from wsistain.reading.read import read


@pytest.fixture(scope="session")
def stained(tmp_path_factory):
    """(H&E, finished result) of a run that returns the H&E as it is."""
    return result(tmp_path_factory.mktemp("stained"))


@pytest.fixture(scope="session")
def reading(stained):
    """What was read of it."""
    return read([stained[1]])[0]
