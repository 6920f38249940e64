import pytest

from wsistain.errors import WeightsError
from wsistain.weights.file import SUFFIX, read_header
from wsistain.weights.find import find_weights, shipped_folder


def test_every_name_that_the_list_shows_as_shipped_can_be_run():
    files = sorted(shipped_folder().glob(f"*{SUFFIX}"))
    assert files
    for path in files:
        for marker in read_header(path).markers:
            assert find_weights(path.stem, marker) == path


def test_what_was_installed_under_a_shipped_name_wins(tmp_path, monkeypatch):
    shipped = sorted(shipped_folder().glob(f"*{SUFFIX}"))[0]
    monkeypatch.setattr("wsistain.weights.find.installed_folder", lambda: tmp_path)
    own = tmp_path / shipped.name
    own.write_bytes(shipped.read_bytes())
    assert find_weights(shipped.stem, read_header(shipped).markers[0]) == own
    with pytest.raises(WeightsError, match="were not found"):
        find_weights("demo-no-such-marker", "ER")
