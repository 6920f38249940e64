"""A weights file: what it says of itself, and what is never written or read."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from wsistain.errors import WeightsError
from wsistain.generators.load import load_generator
from wsistain.systems import find_system
from wsistain.weights.file import Header, file_hash, load_network, load_tensors, read_header, save_weights

OPTIONS = {"n_blocks": 1, "ngf": 4}
HEADER = Header(system="cyclegan", options=OPTIONS, markers=["ER"], mpp=0.5, tile_px=64, size_multiple=4)


def made(path: Path) -> tuple[Path, torch.nn.Module]:
    torch.manual_seed(0)
    network = find_system("cyclegan").generator_network(OPTIONS).eval()
    save_weights(path, HEADER, network.state_dict())
    return path, network


def test_what_is_saved_is_loaded_again_and_the_same_bytes_have_the_same_hash(tmp_path: Path) -> None:
    path, network = made(tmp_path / "a" / "w.safetensors")
    loaded, header = load_network(path)
    x = torch.rand(1, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        assert torch.equal(loaded(x), network(x))
    assert header == HEADER == read_header(path)
    assert file_hash(path) == file_hash(made(tmp_path / "b.safetensors")[0])
    assert [p.name for p in path.parent.iterdir()] == ["w.safetensors"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_network_that_is_not_finite_is_neither_saved_nor_loaded_nor_stained_with(
    tmp_path: Path, value: float
) -> None:
    path, network = made(tmp_path / "w.safetensors")
    state = {n: t.clone() for n, t in network.state_dict().items()}
    name = next(iter(state))
    state[name].view(-1)[0] = value
    with pytest.raises(WeightsError, match=rf"1 of {len(state)} tensors hold numbers that are not finite \({name}\)"):
        save_weights(tmp_path / "new.safetensors", HEADER, state)
    assert not (tmp_path / "new.safetensors").exists()
    save_file(state, path, metadata={"wsistain": HEADER.model_dump_json()})
    for load in (load_tensors, load_network, lambda p: load_generator(p, "ER", device="cpu")):
        with pytest.raises(WeightsError, match="not finite"):
            load(path)


def test_every_tensor_of_our_own_files_has_to_be_there(tmp_path: Path) -> None:
    path, _ = made(tmp_path / "w.safetensors")
    tensors = load_file(path)
    lost = tensors.popitem()[0]
    save_weights(path, HEADER, tensors)
    with pytest.raises(WeightsError, match=f"missing {lost}"):
        load_network(path)


def test_headers_that_say_nothing_useful_are_told(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    for metadata, words in (
        ({}, "no wsistain header"),
        ({"wsistain": "{"}, "damaged: not JSON"),
        ({"wsistain": "{}"}, "system"),
    ):
        save_file({"a": torch.zeros(1)}, path, metadata=metadata)
        with pytest.raises(WeightsError, match=words):
            read_header(path)
    with pytest.raises(WeightsError, match="there are no weights at"):
        read_header(tmp_path / "absent.safetensors")
