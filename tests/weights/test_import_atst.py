"""Generators of ATST-Net's own code become ours."""

import tempfile
from pathlib import Path

import pytest
import torch

from wsistain.errors import WeightsError
from wsistain.networks.stain_unet import StainUNet
from wsistain.published.tensors import read_published
from wsistain.systems.atst_net import Config, generator_network
from wsistain.weights.import_atst import convert_atst
from wsistain.weights.importing import KINDS

TINY = Config.tiny({})
X = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1


def _convert(tensors):
    path = Path(tempfile.mkdtemp()) / "netG.pth"
    torch.save(tensors, path)
    return convert_atst(read_published(path), path, g_ihc=TINY.g_ihc, g_he=TINY.g_he)


def _theirs_forward():
    torch.manual_seed(0)
    ours = generator_network({"direction": "he-to-ihc", **TINY.g_ihc.model_dump()}).eval()
    theirs = dict(ours.network.state_dict())
    for name in ("norm.weight", "fc_norm.bias", "head.weight", "decoder0.0.block.0.weight"):  # built, never called
        theirs[name] = torch.zeros(2)
    return ours, theirs


@pytest.mark.parametrize(
    "wrap", [lambda t: t, lambda t: {"model": t}, lambda t: {f"module.{n}": v for n, v in t.items()}]
)
def test_the_forward_generator_stains_as_theirs(wrap):
    ours, theirs = _theirs_forward()
    network, options, surplus, folded = _convert(wrap(theirs))
    assert (options["direction"], len(surplus), folded) == ("he-to-ihc", 4, 0)
    with torch.no_grad():
        assert torch.equal(network.eval()(X), ours(X))
    again = generator_network(options)
    again.load_state_dict(network.state_dict())


def test_the_way_back_is_told_by_its_names():
    torch.manual_seed(0)
    ours = StainUNet(**TINY.g_he.model_dump()).eval()
    theirs = {**ours.state_dict(), "upa1.gate.0.weight": torch.zeros(1), "out_pathology_path.1.bias": torch.zeros(1)}
    network, options, surplus, _ = _convert(theirs)
    assert (options["direction"], len(surplus)) == ("ihc-to-he", 2)
    with torch.no_grad():
        assert torch.equal(network.eval()(X), ours(X))


def test_what_does_not_fit_is_named():
    _, theirs = _theirs_forward()
    del theirs["blocks.1.attn.qkv.weight"]
    theirs["extra.weight"] = torch.zeros(1)
    with pytest.raises(WeightsError, match=r"missing blocks\.1\.attn\.qkv\.weight; surplus extra\.weight"):
        _convert(theirs)
    with pytest.raises(WeightsError, match="neither of ATST-Net's generators"):
        _convert({"model.1.weight": torch.zeros(1)})
    assert "atst_net" in KINDS
