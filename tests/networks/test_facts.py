import pytest
import torch
from torch import nn

from wsistain.networks.context import ContextResnet
from wsistain.networks.facts import AroundBase, NetworkFacts, Seeded, facts_of, norm_by_layers
from wsistain.networks.resnet import ResnetGenerator
from wsistain.networks.stain_unet import StainUNet
from wsistain.networks.unet import UnetGenerator
from wsistain.systems.atst_net import Config, generator_network

ATST = Config.tiny({})
NETWORKS = {
    "resnet": lambda: ResnetGenerator(1, 2),
    "resnet, batch norm": lambda: ResnetGenerator(1, 2, norm="batch", blur=False),
    "unet": lambda: UnetGenerator(3, 2),
    "unet, instance norm": lambda: UnetGenerator(3, 2, norm="instance"),
    "context": lambda: ContextResnet(1, 4, (3,), 3),
    "stain unet": lambda: StainUNet(base=2, n_residual=1),
    "vit": lambda: generator_network({"direction": "he-to-ihc", **ATST.g_ihc.model_dump()}),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_what_a_network_says_of_itself_is_what_its_layers_and_its_output_show(name: str) -> None:
    network = NETWORKS[name]().eval()
    facts = facts_of(network)
    assert facts.norm == norm_by_layers(network)
    edge = -(-max(facts.least_px, 17) // facts.size_multiple) * facts.size_multiple
    x = torch.zeros(1, 3, edge, edge + facts.size_multiple)
    with torch.no_grad():
        assert network(x).shape == x.shape


def test_a_network_that_says_nothing_is_refused_and_not_guessed_at() -> None:
    with pytest.raises(TypeError, match="Conv2d says no facts of itself; give it a property `facts`"):
        facts_of(nn.Conv2d(3, 3, 1))


def test_layers_tell_the_norm() -> None:
    assert norm_by_layers(nn.Sequential(nn.InstanceNorm2d(2), nn.GroupNorm(1, 2))) == "instance"
    assert norm_by_layers(nn.Sequential(nn.InstanceNorm2d(2, track_running_stats=True))) == "frozen"
    assert norm_by_layers(nn.Sequential(nn.GroupNorm(1, 2))) == "tile"
    assert norm_by_layers(nn.Sequential(nn.BatchNorm2d(2))) == "frozen"


def test_a_plain_network_has_no_seed_and_no_base() -> None:
    network = ResnetGenerator(1, 2)
    assert not isinstance(network, Seeded) and not isinstance(network, AroundBase)
    assert network.facts == NetworkFacts("instance", size_multiple=4, halo_px=network.facts.halo_px)
