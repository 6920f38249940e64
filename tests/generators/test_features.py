"""What a network sees: found in any network, told per cell, kept with weights, and far from training where training was not."""

import numpy as np
import pytest
import torch
from torch import nn

from tests.optics.test_familiar import tissue
from wsistain.config import validate
from wsistain.errors import ConfigError, WeightsError
from wsistain.generators.features import Features, enough, find_layer, make_features, padded
from wsistain.generators.known import Known, asking, known_of
from wsistain.networks.resnet import ResnetGenerator
from wsistain.networks.unet import UnetGenerator
from wsistain.optics.feature_bank import FeatureBank
from wsistain.training.samples import from_pixels
from wsistain.weights.file import Header, load_tensors, read_header, save_weights

MPP = 2.0  # cells of 16 px: small pictures hold many


def staining(network):
    network.eval()

    def stain(rgb):
        with torch.no_grad():
            return network(from_pixels(torch.from_numpy(np.ascontiguousarray(rgb))[None]))

    return stain


def alive(network):
    """The network with weights that let a picture through."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            module.reset_parameters()
    return network


@pytest.fixture(scope="module")
def network():
    return alive(ResnetGenerator(1, 8, norm="batch", blur=False))


@pytest.fixture(scope="module")
def bank(network):
    made = make_features(network, staining(network), [tissue(k) for k in range(6)], MPP, multiple=4)
    assert made is not None
    return made


def test_the_layer_is_the_last_that_is_wider_than_a_picture(network):
    layer = find_layer(network, staining(network), 32)
    assert isinstance(dict(network.named_modules())[layer], nn.ReflectionPad2d) and layer == "model.17"
    unet = UnetGenerator(4, 8, dropout=0.0)
    assert find_layer(unet, staining(unet), 32) == "up.0.0"  # what its last convolution reads, at half the size

    class Named(nn.Module):
        feature_layer = "deep"

    assert find_layer(Named(), staining(network), 32) == "deep"


def test_each_cell_has_the_mean_and_spread_of_its_own_place(network):
    picture = tissue(1)[:80, :64]
    layer = find_layer(network, staining(network), 32)
    features = Features(network, staining(network), layer, 4)
    found = features.of(picture, MPP)
    cell = features.maps(picture).numpy()[:, 24:40, 8:24]
    assert found.shape == (4, 3, 16)
    np.testing.assert_allclose(found[1, 0, :8], cell.mean(axis=(1, 2)))
    np.testing.assert_allclose(found[1, 0, 8:], np.log10(cell.std(axis=(1, 2)) + 1e-3))
    # The network is left as it was, and runs to its end for whoever else calls it.
    assert staining(network)(picture).shape == (1, 3, 80, 64)
    features.close()
    glass = picture.copy()
    glass[24:40, 8:24] = 250
    again = Features(network, staining(network), layer, 4)
    assert np.isnan(again.of(glass, MPP)[1, 0]).all() and np.isfinite(again.of(glass, MPP)[0, 0]).all()
    again.close()
    assert padded(picture[:78], 4).shape == (80, 64, 3)


def test_what_training_looked_like_is_near_and_another_picture_is_far(bank, network):
    features = Features(network, staining(network), bank.layer, 4)
    known = Known(bank=bank, features=features)
    assert known.parts == ("features",)
    near = known.distances(tissue(50), MPP)["features"]
    far = known.distances(tissue(50, tint=(1.6, 0.5, 1.5), blur=4.0), MPP)["features"]
    features.close()
    assert near.shape == (11, 11) and np.median(near) < 0.8 and np.median(far) > 2 * np.median(near)


def test_a_bank_is_checked_as_it_is_read(bank):
    assert FeatureBank.model_validate_json(bank.model_dump_json()) == bank
    for wrong in ({"layer": ""}, {"far": 0}, {"mean": [0.0]}, {"bank": [[1.0] * 3] * 10}):
        with pytest.raises(ConfigError):
            validate(FeatureBank, bank.model_dump(mode="json") | wrong, "features")


def test_too_few_or_too_small_pictures_make_no_bank(network):
    assert not enough([tissue(0)], MPP) and not enough([tissue(0)[:24, :24]] * 99, MPP)
    assert make_features(network, staining(network), [tissue(0)] * 2, 0.5) is None
    dead = ResnetGenerator(1, 8, norm="batch", blur=False)
    nn.init.zeros_(dead.model[1].weight)
    assert make_features(dead, staining(dead), [tissue(0)] * 6, MPP, multiple=4) is None
    glass = [np.full((192, 192, 3), 250, np.uint8)] * 6
    assert enough(glass, MPP) and make_features(network, staining(network), glass, MPP, multiple=4) is None


def test_weights_with_a_bank_and_without_are_read(tmp_path, bank, network):
    path, values = tmp_path / "w.safetensors", {"system": "cut", "markers": ["ER"], "mpp": MPP, "tile_px": 64}
    from wsistain.systems.cut import generator_network

    options = {"n_blocks": 1, "ngf": 8}
    made = alive(generator_network(options))
    header = Header(**values, size_multiple=4, options=options)
    save_weights(path, header, made.state_dict())
    before = load_tensors(path)
    known = known_of(str(path), "")
    assert known.parts == () and asking(known, str(path), "ER") is known and known.why
    found = make_features(made, staining(made), [tissue(k) for k in range(6)], MPP, multiple=4)
    save_weights(path, header.model_copy(update={"features": found}), before)
    assert read_header(path).features == found and all(torch.equal(before[k], v) for k, v in load_tensors(path).items())
    known = asking(known_of(str(path), ""), str(path), "ER")
    assert known.parts == ("features",) and not known.why
    assert np.isfinite(known.distances(tissue(9), MPP)["features"]).all()
    known.features.close()
    save_weights(path, header.model_copy(update={"features": found.model_copy(update={"layer": "gone"})}), before)
    with pytest.raises(WeightsError, match="no layer 'gone'"):
        asking(known_of(str(path), ""), str(path), "ER")
