"""A small edition of the benchmark, made once."""

import pytest

from wsistain.benchmark.edition import Condition, Edition
from wsistain.benchmark.listed import listed_now
from wsistain.benchmark.make import make, make_unchecked

TASK = Condition("adjacent", 3, "ER")
SMALL = Edition("small", (TASK,), size=96, mpp=0.6, train=2, val=1, test=2, seeds=(5, 6), visibility=0.85)


@pytest.fixture(scope="session")
def first(tmp_path_factory):
    """The data of the small edition with their card, and the list of what they looked like."""
    root = tmp_path_factory.mktemp("benchmark") / "data"
    (root).mkdir()
    (root / "benchmark.json").write_text('{"edition": "small", "conditions": {}}')
    make_unchecked(root, TASK, SMALL)
    listed = listed_now(root, TASK)
    make(root, edition=SMALL, frozen=lambda *_: listed)
    return root, listed
