from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.systems.test_lpstain import DYES, _batch, _config, _step
from wsistain.config import TrainConfig, load_config
from wsistain.errors import ConfigError, WeightsError
from wsistain.markers import find_marker
from wsistain.networks.frozen_encoder import REACH_PX, FrozenEncoder, load_encoder
from wsistain.networks.resnet50 import ResNet50Features
from wsistain.packaged import training_config
from wsistain.systems.base import Batch
from wsistain.systems.lpstain import Config, LPStain, generator_network


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A narrow ResNet-50 with all four stages and a classifier, statistics and all."""
    torch.manual_seed(0)
    network = ResNet50Features(16)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    path = tmp_path_factory.mktemp("nets") / "pathology.safetensors"
    save_file({**network.state_dict(), "fc.weight": torch.zeros(3, 128)}, path)
    return path


def test_it_says_what_layer2_of_the_published_network_says_and_stays_so(published):
    encoder, whole = load_encoder(str(published)), ResNet50Features(16)
    whole.load_published(published)
    x = torch.rand(1, 3, 64, 96)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        wanted = whole.eval()((x - mean) / std)[1]
    found = encoder.train()(2 * x - 1)
    assert found.shape == (1, 32, 8, 12) and torch.allclose(found, wanted, atol=1e-6)
    assert not found.requires_grad and not any(p.requires_grad for p in encoder.parameters())


def test_its_reach_is_the_one_stated():
    torch.manual_seed(0)
    encoder = FrozenEncoder(16).double()
    x = torch.rand(1, 3, 256, 256, dtype=torch.float64)
    changed = x.clone()
    far = REACH_PX - 16  # of one of its places, which lies in the middle of 8 px at most
    changed[..., : 128 - far, :] += 0.5
    near = x.clone()
    near[..., : 128 - far + 10, :] += 0.5
    with torch.no_grad():
        row = encoder(x)[0, :, 16]
        assert torch.equal(encoder(changed)[0, :, 16], row)
        assert not torch.equal(encoder(near)[0, :, 16], row)


def test_lpstain_learns_with_it_and_leaves_it_as_it_came(published):
    torch.manual_seed(0)
    system = LPStain(_config(encoder=str(published)), find_marker("ER"))
    before = {name: t.clone() for name, t in system.G.state_dict().items()}
    logs = _step(system.train(), _batch())
    assert all(torch.isfinite(value) for value in logs.values())
    after = system.G.state_dict()
    moved = {name for name, t in after.items() if not torch.equal(t, before[name])}
    assert "trunk.told.weight" in moved and not any(name.startswith("trunk.encoder.") for name in moved)

    # The weights hold it: what reads them needs no file of the encoder.
    options = system.header_options()
    assert options["encoder"]["file"] == "pathology.safetensors" and len(options["encoder"]["sha256"]) == 64
    again = generator_network(options)
    again.load_state_dict(system.generator_state())
    system.G.eval(), again.eval()
    x = torch.rand(1, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        assert torch.equal(again(x), system.G(x))


@pytest.mark.parametrize("pool", [1, 2])
def test_tiles_with_the_halo_equal_one_pass_with_an_encoder_too(published, pool):
    torch.manual_seed(0)
    network = LPStain(_config(encoder=str(published), pool=pool), find_marker("ER")).G.eval()
    halo, step, core = network.facts.halo_px, network.size_multiple, 32
    assert step == 8 * pool and halo % step == 0
    edge = 2 * halo + core + 2 * step
    x = torch.rand(1, 3, edge, edge) * 2 - 1
    with torch.no_grad():
        whole = network.stain(x, ["ER"])[0][..., step + halo :, step + halo :][..., :core, :core]
        tile = x[..., step : step + 2 * halo + core, step : step + 2 * halo + core]
        for found in (
            network.stain(tile, ["ER"])[0][..., halo:-halo, halo:-halo],
            network.stain(tile, ["ER"], halo)[0],
        ):
            assert torch.allclose(found, whole, atol=1e-5)


def test_a_missing_file_and_another_network_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"options\.encoder: .*none\.pth is not there; wanted a ResNet-50"):
        LPStain(_config(encoder=str(tmp_path / "none.pth")), find_marker("ER"))
    save_file({"cls_token": torch.zeros(1, 1, 8)}, tmp_path / "vit.safetensors")
    with pytest.raises(WeightsError, match=r"no ResNet-50 .*no conv1\.weight"):
        load_encoder(str(tmp_path / "vit.safetensors"))
    short = {n: t for n, t in ResNet50Features(16).state_dict().items() if not n.startswith("layer2.3.")}
    save_file(short, tmp_path / "short.safetensors")
    with pytest.raises(WeightsError, match=r"missing layer2\.3\."):
        load_encoder(str(tmp_path / "short.safetensors"))


def test_a_step_of_the_real_size_configuration_with_an_encoder_of_its_class_is_finite(tmp_path):
    torch.manual_seed(0)
    save_file(FrozenEncoder().body.state_dict(), tmp_path / "resnet50.safetensors")
    shipped = load_config(TrainConfig, training_config(Path("lpstain")), [])
    dyes = {name: DYES.model_dump() for name in shipped.marker.split(",")}
    options = {**shipped.options, "dyes": dyes, "mpp": 0.4661, "encoder": str(tmp_path / "resnet50.safetensors")}
    system = LPStain(Config.preset("paper", options), find_marker("ER"))
    before = system.G.trunk.told.weight.detach().clone()
    he, ihc = (torch.rand(1, 3, 64, 64) * 1.6 - 0.8 for _ in range(2))
    logs = _step(system, Batch(he, ihc, "ER", ("a",), markers=("ER",)))
    assert all(torch.isfinite(value) for value in logs.values())
    assert system.G.trunk.encoder.channels == 512 and not torch.equal(system.G.trunk.told.weight, before)
