"""What `import wsistain` offers, and what it says where a part is not installed."""

import subprocess
import sys

import pytest

import wsistain


def test_every_public_name_leads_somewhere():
    assert all(getattr(wsistain, name) is not None for name in wsistain.__all__)


def test_training_without_its_packages_names_the_extra():
    """In a process of its own: modules that were imported halfway would stay with other tests."""
    code = "import sys; sys.modules['accelerate'] = None; import wsistain; wsistain.train"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1].endswith("wsistain.train needs accelerate: pip install 'wsistain[train]'")


def test_another_name_is_no_attribute():
    with pytest.raises(AttributeError, match="has no attribute 'paint'"):
        wsistain.paint  # noqa: B018
