"""What tests of training share: one thread, and a small data set that none of them changes."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.data.made_patches import make_mist


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Steps this small are slower on several threads."""
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)


@pytest.fixture(scope="session")
def patches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Root of MIST patches of 96 px for ER."""
    return make_mist(tmp_path_factory.mktemp("patches"))
