"""What `import wsistain` offers, and what it says where a part is not installed."""

import sys

import pytest

import wsistain


def test_every_public_name_leads_somewhere():
    assert all(getattr(wsistain, name) is not None for name in wsistain.__all__)


def test_training_without_its_packages_names_the_extra(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("wsistain.training")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(
        wsistain.WsistainError, match=r"wsistain.train needs accelerate: pip install 'wsistain\[train\]'"
    ):
        wsistain.train  # noqa: B018


def test_another_name_is_no_attribute():
    with pytest.raises(AttributeError, match="has no attribute 'paint'"):
        wsistain.paint  # noqa: B018
