import pytest
import torch

from wsistain.errors import WeightsError
from wsistain.weights.file import SUFFIX, load_network, read_header
from wsistain.weights.find import DEMO_NOTE, find_weights, shipped_folder


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


def test_shipped_weights_say_that_they_are_a_demonstration_on_synthetic_tissue():
    headers = {path.stem: (path, read_header(path)) for path in shipped_folder().glob(f"*{SUFFIX}")}
    for path, header in headers.values():
        assert header.note == DEMO_NOTE and "phantom" in header.training_data
        assert path.stat().st_size < 4_000_000
    assert headers["lpstain"][1].markers == ["ER", "PR", "Ki67", "HER2"]


def test_the_shipped_lpstain_paints_each_of_its_markers_in_one_pass():
    network, header = load_network(shipped_folder() / "lpstain.safetensors")
    x = torch.rand(1, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        pictures = network.eval().stain(x, header.markers)
    assert len(pictures) == 4 and all(torch.isfinite(p).all() and p.shape == x.shape for p in pictures)
