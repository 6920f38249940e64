"""PC-StainGAN's U-Net, the IHC-to-H&E generator of ATST-Net."""

import torch

from tests.networks.counting import count_parameters
from wsistain.networks.stain_unet import UNUSED_PREFIXES, StainUNet


def test_published_size_has_the_published_count_and_names():
    with torch.device("meta"):
        network = StainUNet()
    assert count_parameters(network) == 19_825_107
    shapes = {n: tuple(t.shape) for n, t in network.state_dict().items()}
    assert shapes["inc.1.weight"] == (32, 3, 7, 7)
    assert shapes["down3.down_conv.0.weight"] == (256, 128, 3, 3)
    assert shapes["pathology_feature.extractor.0.weight"] == (256, 448, 1, 1)
    assert shapes["pathology_feature.extractor.4.weight"] == (256, 256, 4, 4)
    assert shapes["pathology_feature.extractor.7.conv_block.1.weight"] == (256, 256, 3, 3)
    assert shapes["up1.gate.0.weight"] == (64, 128, 1, 1)
    assert shapes["out_style_path.1.weight"] == (3, 32, 7, 7)
    assert not any(n.startswith(UNUSED_PREFIXES) for n in shapes)


def test_generator_keeps_shape_and_range_on_oblong_images():
    torch.manual_seed(0)
    y = StainUNet(base=4, n_residual=1)(torch.rand(2, 3, 40, 64) * 2 - 1)
    assert y.shape == (2, 3, 40, 64)
    assert y.abs().max() <= 1


def test_every_weight_gets_a_gradient():
    torch.manual_seed(0)
    network = StainUNet(base=4, n_residual=1)
    (network(torch.rand(1, 3, 32, 32)) - 0.5).square().mean().backward()
    assert [n for n, p in network.named_parameters() if n.endswith("weight") and not p.grad.abs().sum()] == []
