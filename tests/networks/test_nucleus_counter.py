"""CPP-Net's layout, polygon counting, and the small density counter."""

import math

import numpy as np
import pytest
import torch

from tests.networks.counting import count_parameters
from wsistain.errors import WeightsError
from wsistain.networks.nucleus_counter import CppNet, SmallCounter, count_polygons, load_counter, scale_percentiles
from wsistain.optics.masks import haematoxylin_saturation
from wsistain.optics.stains import combine_stains


def _discs(centres, radius, shape=(60, 80), n_rays=32):
    """Centre scores and ray distances of discs, as an ideal network would give them."""
    yy, xx = np.mgrid[: shape[0], : shape[1]]
    angles = np.arange(n_rays) * 2 * math.pi / n_rays
    scores, rays = np.zeros(shape), np.zeros((n_rays, *shape))
    for cy, cx in centres:
        d = np.hypot(yy - cy, xx - cx)
        inside = d < radius
        scores[inside] = 1 - d[inside] / radius
        for k, a in enumerate(angles):  # distance from (y, x) to the circle along direction a
            along = (cy - yy) * np.sin(a) + (cx - xx) * np.cos(a)
            rays[k][inside] = (along + np.sqrt(np.maximum(along**2 - d**2 + radius**2, 0)))[inside]
    return scores, rays


def test_cpp_net_has_the_published_count_and_names():
    network = CppNet()
    assert count_parameters(network) == 1_146_106
    names = set(network.state_dict())
    assert {"inc.conv.conv.0.weight", "down2.mpconv.1.conv.3.bias", "up3_seg.conv.conv.4.weight"} <= names
    assert {"features.weight", "out_ray.conv.weight", "conv_1_confidence.conv.weight", "out_seg.conv.bias"} <= names


def test_separate_discs_are_counted_and_the_many_candidates_of_one_are_one():
    centres = [(15, 15), (15, 40), (40, 20), (42, 60)]
    assert count_polygons(*_discs(centres, 8), threshold=0.4) == 4
    assert count_polygons(*_discs(centres[:1], 8), threshold=0.4) == 1
    assert count_polygons(np.zeros((20, 20)), np.ones((32, 20, 20)), threshold=0.4) == 0


def test_touching_discs_stay_two():
    assert count_polygons(*_discs([(30, 30), (30, 45)], 8), threshold=0.4) == 2


def test_mass_of_an_ideal_segmentation_is_the_count():
    """`mass` divides the nucleus area by the mean polygon area; with true distances that is the number of discs."""
    scores, rays = _discs([(15, 15), (15, 40), (40, 20), (42, 60)], 8)

    class Ideal(CppNet):
        def forward(self, x):
            nucleus = torch.tensor(scores > 0, dtype=torch.float32)[None, None]
            return torch.tensor(rays, dtype=torch.float32)[None], nucleus, nucleus

    assert Ideal().mass(torch.rand(1, 1, 60, 80)).item() == pytest.approx(4, rel=0.05)


@pytest.mark.parametrize("build", [CppNet, SmallCounter])
def test_mass_has_a_gradient_on_the_image_and_count_has_none(build):
    torch.manual_seed(0)
    counter = build().eval()
    x = torch.rand(2, 1, 33, 40, requires_grad=True)  # odd sizes too
    assert counter.count(x).shape == (2,)
    assert not counter.count(x).requires_grad
    counter.mass(x).sum().backward()
    assert x.grad.abs().sum() > 0


def test_refined_distances_see_along_the_rays():
    """On a constant field of distances d the value seen k/6 of the way is d, plus the way: the mean exceeds d."""
    torch.manual_seed(0)
    network = CppNet()
    with torch.no_grad():
        network.conv_1_confidence.conv.weight.zero_()
        network.conv_1_confidence.conv.bias.zero_()  # equal trust
    rays = torch.full((1, 32, 64, 64), 7.0)
    refined = network._refine(rays, torch.zeros_like(rays))[0, :, 32, 32]
    expected = (7 + sum(7 + 6 * k / 6 for k in range(1, 7))) / 7
    assert torch.allclose(refined, torch.full((32,), expected))


def test_percentile_scaling_matches_numpy():
    x = torch.rand(2, 1, 17, 23) * 3 + 1
    scaled = scale_percentiles(x)
    for a, b in zip(x.numpy(), scaled.numpy(), strict=True):
        lo, hi = np.percentile(a, [1, 99.8])
        assert np.allclose(b, (a - lo) / (hi - lo), atol=1e-5)


def test_small_counter_is_small_and_can_learn_to_count_dots():
    torch.manual_seed(0)
    counter = SmallCounter(base=4)
    assert count_parameters(SmallCounter()) < 40_000
    optimiser = torch.optim.Adam(counter.parameters(), 3e-3)

    def batch(n_max):
        x, n = torch.zeros(8, 1, 32, 32), torch.randint(1, n_max, (8,))
        for image, k in zip(x, n, strict=True):
            for _ in range(int(k)):
                r, c = torch.randint(0, 30, (2,))
                image[0, r : r + 3, c : c + 3] = 1
        return x, n.float()

    for _ in range(80):
        x, n = batch(12)
        loss = (counter.mass(x) - n).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    x, n = batch(12)
    assert torch.corrcoef(torch.stack([counter.count(x), n]))[0, 1] > 0.9


def test_cpp_net_loads_from_a_path_and_names_what_does_not_fit(tmp_path):
    torch.manual_seed(0)
    source = CppNet()
    torch.save({"module." + n: t for n, t in source.state_dict().items()}, tmp_path / "CHECKPOINT.t7")
    loaded = load_counter(tmp_path / "CHECKPOINT.t7")
    assert all(torch.equal(t, source.state_dict()[n]) for n, t in loaded.state_dict().items())
    assert not any(p.requires_grad for p in loaded.parameters())
    torch.save({"inc.conv.conv.0.weight": torch.zeros(32, 3, 3, 3)}, tmp_path / "rgb.t7")
    with pytest.raises(
        WeightsError, match=r"rgb\.t7 does not fit the network: missing .* shapes differ: inc\.conv\.conv\.0"
    ):
        load_counter(tmp_path / "rgb.t7")


def _nuclei(n, size=160, seed=0):
    """Light of a pale picture with `n` separate haematoxylin discs of about 12 px, at random places."""
    rng = np.random.default_rng(seed)
    stains = np.full((1, 3, size, size), 0.002, np.float32)
    yy, xx = np.mgrid[:size, :size]
    places = rng.permutation([(y, x) for y in range(12, size - 8, 20) for x in range(12, size - 8, 20)])[:n]
    for y, x in places + rng.integers(-3, 4, (n, 2)):
        stains[0, 0][np.hypot(yy - y, xx - x) < rng.uniform(5, 7)] = rng.uniform(0.06, 0.09)
    return combine_stains(torch.from_numpy(stains))


def test_the_shipped_counter_counts_discs_and_only_inside_the_mask():
    counter = load_counter("small")
    everywhere = torch.ones(1, 1, 160, 160)
    counts = [counter.count(haematoxylin_saturation(_nuclei(n), everywhere)).item() for n in (4, 16, 40)]
    assert counts == sorted(counts)
    assert [c / n for c, n in zip(counts, (4, 16, 40), strict=True)] == pytest.approx([1, 1, 1], abs=0.4)
    half = everywhere.clone()
    half[..., 80:] = 0
    inside = counter.count(haematoxylin_saturation(_nuclei(40), half)).item()
    assert 0.3 < inside / counts[-1] < 0.7
