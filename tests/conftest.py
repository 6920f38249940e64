"""Shared fixtures. Real slides lie outside the project; tests that use them skip, saying so, when absent."""

import os
from pathlib import Path
from tempfile import gettempdir

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["WSISTAIN_MARKERS"] = ""  # no markers of whoever runs the tests
os.environ["WSISTAIN_HOME"] = str(Path(gettempdir()) / "wsistain-tests")  # nor networks and weights that they keep
os.environ["XDG_CONFIG_HOME"] = os.environ["WSISTAIN_HOME"]  # nor their settings
os.environ.pop("WSISTAIN_MODELS", None)

SHARED = Path(__file__).resolve().parents[2] / "shared"


def _folder(name: str) -> Path:
    path = Path(os.environ.get("WSISTAIN_TEST_DATA", SHARED)) / name
    if not path.is_dir():
        pytest.skip(f"the folder of real test files '{name}' is not here (set WSISTAIN_TEST_DATA)")
    return path


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real slides, tiles and broken files; skips when absent."""
    return _folder("data")


@pytest.fixture(scope="session")
def vectors() -> Path:
    """Folder of numbers made with the authors' own code; skips when absent."""
    return _folder("vectors")
