"""Weights files that lie: every number in a header has an end, and nothing is built that the file does not hold."""

import json
import struct
import time

import pytest
import torch

from wsistain.errors import WeightsError
from wsistain.systems.cut import generator_network
from wsistain.weights.file import Header, load_network, read_header, save_weights

OPTIONS = {"n_blocks": 1, "ngf": 2}
HEADER = {"system": "cut", "options": OPTIONS, "markers": ["ER"], "mpp": 0.5, "tile_px": 64, "size_multiple": 4}


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "good.safetensors"
    save_weights(path, Header(**HEADER), generator_network(OPTIONS).state_dict())
    load_network(path)
    return path.read_bytes()


def with_header(raw, path, **changes):
    """The file with other values in its header; the tensors as they are."""
    size = struct.unpack("<Q", raw[:8])[0]
    head = json.loads(raw[8 : 8 + size])
    head["__metadata__"]["wsistain"] = json.dumps({**HEADER, "format": 1, **changes})
    text = json.dumps(head).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + size :])
    return path


@pytest.mark.parametrize("value", [float("inf"), float("nan"), -1, 0, 1e6, 10**30])
@pytest.mark.parametrize("name", ["mpp", "tile_px", "size_multiple", "halo_px", "step"])
def test_no_number_of_a_header_is_without_end(good, tmp_path, name, value):
    if (value == 0 and name in ("halo_px", "step")) or (name == "step" and value == 1e6):
        return
    with pytest.raises(WeightsError, match=f"header of .*{name}"):
        read_header(with_header(good, tmp_path / "x.safetensors", **{name: value}))


@pytest.mark.parametrize(
    ("system", "options"),
    [
        ("cut", {"n_blocks": 60000, "ngf": 2}),
        ("cut", {"n_blocks": 1, "ngf": 60000}),
        ("cyclegan", {"n_blocks": 10**9, "ngf": 10**9}),
        ("cyclegan", {"n_blocks": 60000, "ngf": 60000}),
        ("pix2pix", {"n_levels": 60000, "ngf": 4, "dropout": 0.5}),
        ("pix2pix", {"n_levels": 8, "ngf": 30000, "dropout": 0.5}),
        ("aligned", {"n_blocks": 1, "ngf": 2, "windows": [9999] * 200, "far": 59999}),
        ("aligned", {"n_blocks": 1, "ngf": 2, "windows": [5] * 10**5, "far": 5}),
        ("atst_net", {"direction": "he-to-ihc", "width": 60000, "depth": 60000}),
        ("atst_net", {"direction": "ihc-to-he", "base": 60000}),
        ("miu_diff", {"score": {"width": 60000}}),
        ("miu_diff", {"chain": 10**12}),
        ("cyclegan_turbo", {"base": "tiny", "rank_unet": 60000}),
        ("cut", {"n_blocks": "x" * 10**5}),
        ("cut", {"n_blocks": [[[[[[[[[1]]]]]]]]], "ngf": 2}),
        ("cut", {"n_blocks": -5, "ngf": 0}),
        ("cut", {}),
    ],
)
def test_a_network_larger_than_its_file_is_never_built(good, tmp_path, system, options):
    path = with_header(good, tmp_path / "x.safetensors", system=system, options=options)
    start = time.process_time()
    with pytest.raises(WeightsError):
        load_network(path)
    assert time.process_time() - start < 10


def test_a_header_that_hides_its_receptive_field_is_refused(good, tmp_path):
    with pytest.raises(WeightsError, match="receptive field of 1 px"):
        load_network(with_header(good, tmp_path / "x.safetensors", halo_px=1))


def test_a_header_of_five_thousand_digits_or_of_megabytes_is_refused(good, tmp_path):
    size = struct.unpack("<Q", good[:8])[0]
    for text, words in (("9" * 5000, "not JSON"), ('"' + "x" * (1 << 21) + '"', "letters"), ("[" * 5000, "not JSON")):
        head = json.loads(good[8 : 8 + size])
        head["__metadata__"]["wsistain"] = text
        raw = json.dumps(head).encode()
        (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(raw)) + raw + good[8 + size :])
        with pytest.raises(WeightsError, match=words):
            read_header(tmp_path / "x.safetensors")


@pytest.mark.parametrize("wrong", [{"mpp": 1e9}, {"mpp": float("inf")}, {"tile_px": 10**9}, {"licence": "x" * 10**5}])
def test_an_import_with_a_number_without_end_is_refused_and_writes_nothing(tmp_path, wrong):
    from tests.authors_checkpoints import resnet, save
    from wsistain.errors import WsistainError
    from wsistain.weights.importing import import_checkpoint

    save(resnet(1, 2, spectral=False, blur=True), tmp_path / "net_G.pth")
    with pytest.raises(WsistainError, match="header of the weights"):
        import_checkpoint(
            tmp_path / "net_G.pth", "cut", **{"marker": "ER", "mpp": 0.5, "output": tmp_path / "x.safetensors", **wrong}
        )
    assert [p.name for p in tmp_path.iterdir()] == ["net_G.pth"]
